package nkv

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// A Value is what a key holds: JSON text, byte for byte as it was put, or raw bytes. Values compare with ==.
// The zero value is none, and can't be put.
type Value struct {
	text    string
	isBytes bool
}

// Of makes a value: a []byte is raw bytes, a [json.RawMessage] is JSON text and stays as it is, a Value is
// one already, and everything else becomes what encoding/json makes of it.
func Of(v any) (Value, error) {
	switch v := v.(type) {
	case Value:
		if v == (Value{}) {
			return v, because(ErrValue, errors.New("the zero Value is none"))
		}
		return v, nil
	case []byte:
		return Value{text: string(v), isBytes: true}, nil
	case json.RawMessage:
		return ofText(string(v))
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return Value{}, because(ErrValue, err)
	}
	return Value{text: strings.TrimSuffix(text.String(), "\n")}, nil
}

// Line ends between the parts of a text are all that a line can't carry. Within strings JSON has none.
var onOneLine = strings.NewReplacer("\n", " ", "\r", " ")

func ofText(text string) (Value, error) {
	text = strings.Trim(text, " \t\r\n")
	if !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return Value{}, because(ErrValue, errors.New("the text is not JSON"))
	}
	return Value{text: onOneLine.Replace(text)}, nil
}

// JSON gives the text of a value that is JSON.
func (v Value) JSON() (text string, ok bool) { return v.text, !v.isBytes && v.text != "" }

// Bytes gives the bytes of a value that is raw bytes.
func (v Value) Bytes() (raw []byte, ok bool) {
	if !v.isBytes {
		return nil, false
	}
	return []byte(v.text), true
}

// String gives the JSON text, or raw bytes in quotes.
func (v Value) String() string {
	if v.isBytes {
		return fmt.Sprintf("%q", v.text)
	}
	return v.text
}

// Decode reads the value into what a pointer points to: the opposite of [Of]. Numbers that go into an
// interface become a [json.Number], which is never rounded.
func (v Value) Decode(into any) error {
	switch into := into.(type) {
	case *Value:
		*into = v
		return nil
	case *[]byte:
		if !v.isBytes {
			return because(ErrValue, errors.New("it is JSON, not raw bytes"))
		}
		*into = []byte(v.text)
		return nil
	case *json.RawMessage:
		if v.isBytes {
			return errIsBytes
		}
		*into = json.RawMessage(v.text)
		return nil
	}
	if v.isBytes {
		return errIsBytes
	}
	if err := unmarshal(v.text, into); err != nil {
		return because(ErrValue, err)
	}
	return nil
}

var errIsBytes = because(ErrValue, errors.New("it is raw bytes, not JSON"))

func unmarshal(text string, into any) error {
	if pointer := reflect.TypeOf(into); pointer != nil && pointer.Kind() == reflect.Pointer {
		switch pointer.Elem().Kind() {
		case reflect.Interface, reflect.Map, reflect.Slice, reflect.Array, reflect.Struct, reflect.Pointer:
			decoder := json.NewDecoder(strings.NewReader(text))
			decoder.UseNumber()
			return decoder.Decode(into)
		}
	}
	return json.Unmarshal([]byte(text), into)
}

// As reads a value as a type.
func As[T any](v Value) (T, error) {
	var typed T
	err := v.Decode(&typed)
	return typed, err
}

// appendTo adds the field of a request that carries the value.
func (v Value) appendTo(line []byte) []byte {
	if !v.isBytes {
		return append(append(line, `,"value":`...), v.text...)
	}
	line = append(line, `,"base64":"`...)
	start, size := len(line), base64.StdEncoding.EncodedLen(len(v.text))
	line = append(line, make([]byte, size)...)
	base64.StdEncoding.Encode(line[start:], []byte(v.text))
	return append(line, '"')
}
