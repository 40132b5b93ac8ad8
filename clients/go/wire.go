package nkv

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Lines are read by hand, for two reasons: a value has to stay the text that it was, and each line is on
// the way of every request. The daemon writes well-formed JSON; what is not is found where it hinders.

var errMalformed = errors.New("a line is malformed")

// eachField calls a function with the name and the raw text of each field of an object, until it says that
// it has seen enough.
func eachField(text string, see func(name, raw string) (goOn bool)) error {
	at := skipSpace(text, 0)
	if at == len(text) || text[at] != '{' {
		return errMalformed
	}
	at = skipSpace(text, at+1)
	if at < len(text) && text[at] == '}' {
		return nil
	}
	for {
		end := skipValue(text, at)
		if end < 0 || text[at] != '"' {
			return errMalformed
		}
		name := text[at+1 : end-1]
		at = skipSpace(text, end)
		if at == len(text) || text[at] != ':' {
			return errMalformed
		}
		at = skipSpace(text, at+1)
		if end = skipValue(text, at); end < 0 {
			return errMalformed
		}
		if !see(name, text[at:end]) {
			return nil
		}
		at = skipSpace(text, end)
		switch {
		case at < len(text) && text[at] == ',':
			at = skipSpace(text, at+1)
		case at < len(text) && text[at] == '}':
			return nil
		default:
			return errMalformed
		}
	}
}

// eachElement calls a function with the raw text of each element of an array.
func eachElement(text string, see func(raw string) error) error {
	at := skipSpace(text, 0)
	if at == len(text) || text[at] != '[' {
		return errMalformed
	}
	at = skipSpace(text, at+1)
	if at < len(text) && text[at] == ']' {
		return nil
	}
	for {
		end := skipValue(text, at)
		if end < 0 {
			return errMalformed
		}
		if err := see(text[at:end]); err != nil {
			return err
		}
		at = skipSpace(text, end)
		switch {
		case at < len(text) && text[at] == ',':
			at = skipSpace(text, at+1)
		case at < len(text) && text[at] == ']':
			return nil
		default:
			return errMalformed
		}
	}
}

func skipSpace(text string, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n') {
		at++
	}
	return at
}

// skipValue gives the end of the value that begins here, and -1 where none does.
func skipValue(text string, at int) int {
	depth, start := 0, at
	for at < len(text) {
		switch text[at] {
		case '"':
			if at = skipString(text, at); at < 0 {
				return -1
			}
		case '{', '[':
			depth++
			at++
		case '}', ']':
			if depth == 0 {
				return endOf(start, at)
			}
			depth--
			at++
		case ',', ' ', '\t', '\r', '\n', ':':
			if depth == 0 {
				return endOf(start, at)
			}
			at++
			continue
		default:
			at++
			continue
		}
		if depth == 0 {
			return at
		}
	}
	if depth > 0 {
		return -1
	}
	return endOf(start, at)
}

func endOf(start, at int) int {
	if at == start {
		return -1
	}
	return at
}

func skipString(text string, at int) int {
	for at++; ; {
		quote := strings.IndexByte(text[at:], '"')
		if quote < 0 {
			return -1
		}
		at += quote
		backslashes := 0
		for text[at-1-backslashes] == '\\' {
			backslashes++
		}
		at++
		if backslashes%2 == 0 {
			return at
		}
	}
}

// readString undoes the quotes and escapes of a string.
func readString(raw string) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", errMalformed
	}
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var text string
	if json.Unmarshal([]byte(raw), &text) != nil {
		return "", errMalformed
	}
	return text, nil
}

func readNumber(raw string) (uint64, error) {
	number, err := strconv.ParseUint(raw, 10, 64)
	if err != nil {
		return 0, errMalformed
	}
	return number, nil
}

// appendString adds a text in quotes.
func appendString(line []byte, text string) []byte {
	line = append(line, '"')
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			line = append(line, '\\', c)
		case c < ' ':
			line = append(line, fmt.Sprintf(`\u%04x`, c)...)
		default:
			line = append(line, c)
		}
	}
	return append(line, '"')
}

func appendNumber(line []byte, name string, number uint64) []byte {
	line = append(append(append(line, `,"`...), name...), `":`...)
	return strconv.AppendUint(line, number, 10)
}

// A head is what there is to know of a line to give it to whom it is for.
type head struct {
	id    string // raw, "" where there is none
	isOK  bool
	isSub bool
}

func readHead(line string) (head, error) {
	var h head
	var hasOK bool
	err := eachField(line, func(name, raw string) bool {
		switch name {
		case "id":
			h.id = raw
		case "ok":
			h.isOK = raw == "true"
			hasOK = true
		case "sub":
			h.id = raw
			h.isSub = true
		}
		return !h.isSub && (!hasOK || h.id == "")
	})
	if err == nil && !h.isSub && !hasOK {
		err = errMalformed
	}
	return h, err
}

// readRefusal makes an error of a response that says no.
func readRefusal(line string) error {
	refusal := &Error{At: -1}
	var bad error
	err := eachField(line, func(name, raw string) bool {
		var code string
		var number uint64
		switch name {
		case "error":
			code, bad = readString(raw)
			refusal.Code = Code(code)
		case "message":
			refusal.Message, bad = readString(raw)
		case "rev":
			refusal.Rev, bad = readNumber(raw)
		case "at":
			number, bad = readNumber(raw)
			refusal.At = int(number)
		}
		return bad == nil
	})
	if err != nil || bad != nil {
		return because(ErrProtocol, errMalformed)
	}
	return refusal
}

// An answer holds the fields that responses and events carry, those that are there.
type answer struct {
	event     string
	key       string
	value     Value
	rev       uint64
	lifetime  Lifetime
	ttlMS     uint64
	deleted   uint64
	unchanged bool
	more      bool
	entries   string // raw
	epoch     string
}

func readAnswer(line string) (answer, error) {
	var a answer
	var bad error
	err := eachField(line, func(name, raw string) bool {
		var text string
		switch name {
		case "event":
			a.event, bad = readString(raw)
		case "key":
			a.key, bad = readString(raw)
		case "value":
			a.value = Value{text: raw}
		case "base64":
			if text, bad = readString(raw); bad == nil {
				var decoded []byte
				decoded, bad = base64.StdEncoding.DecodeString(text)
				a.value = Value{text: string(decoded), isBytes: true}
			}
		case "rev":
			a.rev, bad = readNumber(raw)
		case "lifetime":
			text, bad = readString(raw)
			a.lifetime = Lifetime(text)
		case "ttl_ms":
			a.ttlMS, bad = readNumber(raw)
		case "deleted":
			a.deleted, bad = readNumber(raw)
		case "unchanged":
			a.unchanged = raw == "true"
		case "more":
			a.more = raw == "true"
		case "entries":
			a.entries = raw
		case "epoch":
			a.epoch, bad = readString(raw)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return answer{}, because(ErrProtocol, err)
	}
	return a, nil
}
