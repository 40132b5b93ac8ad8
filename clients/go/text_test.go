package nkv

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestKeysHoldAnyText(t *testing.T) {
	for _, test := range []struct{ text, segment string }{
		{"eth0", "eth0"},
		{"edge-7.example.org", "edge-7%2Eexample%2Eorg"},
		{"$sys", "%24sys"},
		{"a$", "a$"},
		{"50%", "50%25"},
		{"*", "%2A"},
		{"a b\tc\n", "a%20b%09c%0A"},
		{"Grüße", "Grüße"},
		{"a\u2003b\u0085", "a%E2%80%83b%C2%85"},
		{"\ufffd", "\ufffd"},
		{"日本", "日本"},
	} {
		equal(t, Escape(test.text), test.segment)
		equal(t, Unescape(test.segment), test.text)
	}
	equal(t, Key("hosts", "edge-7.example.org", "up"), "hosts.edge-7%2Eexample%2Eorg.up")
	equal(t, Segments("a.b%2Ec")[1], "b.c")
	// What is no escape stays as it is.
	for _, text := range []string{"%", "%2", "%zz", "%FF", "100%."} {
		equal(t, Unescape(text), text)
	}
	equal(t, Escape("a\xff"), "a%FF")
}

func TestPatternsMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, matching, other string
	}{
		{"a", "a", "b a.b ab"},
		{"a.*", "a a.b a.b.c", "ab b.a"},
		{"*", "a a.b", "$sys $sys.a"},
		{"$sys.*", "$sys $sys.a", "sys"},
		{"*.b", "a.b", "b a a.b.c a.c $sys.b"},
		{"a.*.c", "a.b.c", "a.c a.b.d a.b.c.d"},
		{"*.*", "a a.b a.b.c", "$sys"},
		{"a.*.*", "a.b a.b.c a.b.c.d", "a b.c"},
	} {
		for _, key := range strings.Fields(test.matching) {
			if !Matches(test.pattern, key) {
				t.Errorf("%s does not match %s", test.pattern, key)
			}
		}
		for _, key := range strings.Fields(test.other) {
			if Matches(test.pattern, key) {
				t.Errorf("%s matches %s", test.pattern, key)
			}
		}
	}
	for _, pattern := range []string{"", "a..b", ".", "a.", "a*", "a b", "a.\x01", "\xff"} {
		wantError(t, checkPattern(pattern), ErrBadKey)
	}
	wantError(t, checkPattern(strings.Repeat("a", 513)), ErrTooLarge)
}

func TestAddressesAreToldFromTheirText(t *testing.T) {
	for _, test := range []struct{ text, network, place string }{
		{"/run/nkv.sock", "unix", "/run/nkv.sock"},
		{"./nkv.sock", "unix", "./nkv.sock"},
		{"unix:nkv.sock", "unix", "nkv.sock"},
		{"4222", "tcp", "localhost:4222"},
		{"tcp:4222", "tcp", "localhost:4222"},
		{"edge:4222", "tcp", "edge:4222"},
		{"tcp:edge:4222", "tcp", "edge:4222"},
		{"tcp:[::1]:4222", "tcp", "[::1]:4222"},
	} {
		got, err := parseAddress(test.text)
		check(t, err)
		equal(t, got, address{test.network, test.place})
	}
	for _, text := range []string{
		"edge", "unix:", "tcp:", "edge:", ":4222", "edge:x", "edge:65536", "edge:-1", "::1:4222", "a b:1", "[a]:1", "tcp:a/b:1",
	} {
		_, err := parseAddress(text)
		wantError(t, err, ErrAddress)
	}
	t.Setenv("NKV_ADDRESS", "edge:1")
	got, err := parseAddress("")
	check(t, err)
	equal(t, got, address{"tcp", "edge:1"})
}

func TestValuesStayTheTextThatTheyWere(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{1500, "1500"},
		{"<&>", `"<&>"`},
		{nil, "null"},
		{json.RawMessage(" { \"b\": 1.00,\n \"a\": 12345678901234567890123 }\n"), `{ "b": 1.00,  "a": 12345678901234567890123 }`},
		{[]string{"a"}, `["a"]`},
	} {
		value, err := Of(test.value)
		check(t, err)
		got, _ := value.JSON()
		equal(t, got, test.want)
	}
	for _, bad := range []any{json.RawMessage("{"), json.RawMessage("1 2"), json.RawMessage(""), json.RawMessage("\"\xff\""), make(chan int), Value{}} {
		_, err := Of(bad)
		wantError(t, err, ErrValue)
	}
	big, _ := Of(json.RawMessage("12345678901234567890123"))
	number, err := As[any](big)
	check(t, err)
	equal(t, number.(json.Number).String(), "12345678901234567890123")
	raw, err := Of([]byte{0, 255})
	check(t, err)
	_, err = As[string](raw)
	wantError(t, err, ErrValue)
	_, err = As[[]byte](big)
	wantError(t, err, ErrValue)
	bytes, err := As[[]byte](raw)
	check(t, err)
	equal(t, string(bytes), "\x00\xff")
	_, err = As[int](Value{text: `"x"`})
	wantError(t, err, ErrValue)
}

func TestRequestsAreTheLinesOfTheProtocol(t *testing.T) {
	for _, test := range []struct {
		request request
		want    string
	}{
		{putRequest("a\"b\\\x01ü", 1, nil), `,"op":"put","key":"a\"b\\\u0001ü","value":1`},
		{putRequest("a", []byte{0, 1, 2, 255}, []PutOption{IfRev(0), Session, TTL(time.Second + 1)}),
			`,"op":"put","key":"a","base64":"AAEC/w==","if_rev":0,"lifetime":"session","ttl_ms":1001`},
		{putRequest("a", true, []PutOption{IfChanged}), `,"op":"put","key":"a","value":true,"if_changed":true`},
		{putRequest("a", true, []PutOption{TTL(-1)}), `,"op":"put","key":"a","value":true,"ttl_ms":0`},
		{deleteRequest("a.*", nil), `,"op":"delete","key":"a.*"`},
		{deleteRequest("a", []DeleteOption{IfRev(7)}), `,"op":"delete","key":"a","if_rev":7`},
		{new(Batch).request(), `,"op":"batch","ops":[]`},
		{new(Batch).Check("a", 1).Put("b", "x").Delete("c.*").request(),
			`,"op":"batch","ops":[{"op":"check","key":"a","if_rev":1},{"op":"put","key":"b","value":"x"},{"op":"delete","key":"c.*"}]`},
		{wanted{pattern: "a", exact: true, changesOnly: true, cuts: true, since: &Position{"e", 5}}.request(),
			`,"op":"subscribe","key":"a","exact":true,"initial":false,"cuts":true,"since":5,"epoch":"e"`},
	} {
		check(t, test.request.err)
		equal(t, string(test.request.fields), test.want)
	}
	// What would arrive as something else is not sent.
	wantError(t, putRequest("a\xff", 1, nil).err, ErrBadKey)
	wantError(t, new(Batch).Delete("a").Put("\xff", 1).request().err, ErrBadKey)
	wantError(t, new(Batch).Put("a", make(chan int)).request().err, ErrValue)
}

// What this package reads of a line is what encoding/json reads.
func FuzzLines(f *testing.F) {
	for _, line := range []string{
		`{"id":1,"ok":true,"rev":7}`, `{ "a" : [1, {"b": "}\"\\"}] , "c":"x\\", "d":null}`, `{}`, `{"a":1,}`, `{"a"}`, `[`, `{"a":}`,
		`{"a":"\u00fc"}`, `{"a":[[]]}`, `{"a":tru`, `{:1}`, `{"a":1 2}`,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got := make(map[string]string)
		err := eachField(line, func(name, raw string) bool {
			got[name] = raw
			return true
		})
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(line), &want) != nil || want == nil {
			return // it must not panic, which is all
		}
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for name, raw := range got {
			if !strings.ContainsAny(name, `\`) && name == strings.ToValidUTF8(name, "") && raw != string(want[name]) {
				t.Fatalf("%q: %s is %s, not %s", line, name, raw, want[name])
			}
		}
		eachElement(line, func(string) error { return nil })
		readRefusal(line)
		readAnswer(line)
	})
}
