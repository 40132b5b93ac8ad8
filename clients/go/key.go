package nkv

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const keyBytesMax = 512

// Key makes a key of any texts, one a segment. What a segment can't hold is escaped as %XX.
//
//	nkv.Key("hosts", "edge-7.example.org", "up") // hosts.edge-7%2Eexample%2Eorg.up
//
// An empty text can't be a segment: the daemon refuses the key with [ErrBadKey].
func Key(segments ...string) string {
	escaped := make([]string, len(segments))
	for i, segment := range segments {
		escaped[i] = Escape(segment)
	}
	return strings.Join(escaped, ".")
}

// Segments undoes [Key].
func Segments(key string) []string {
	segments := strings.Split(key, ".")
	for i, segment := range segments {
		segments[i] = Unescape(segment)
	}
	return segments
}

// Escape makes one segment of a text.
func Escape(text string) string {
	var escaped strings.Builder
	for at, r := range text {
		size := len(string(r))
		if r == utf8.RuneError {
			_, size = utf8.DecodeRuneInString(text[at:])
		}
		bytes := text[at : at+size]
		if !needsEscape(at, r) && !(r == utf8.RuneError && size == 1) {
			escaped.WriteString(bytes)
			continue
		}
		for i := 0; i < size; i++ {
			fmt.Fprintf(&escaped, "%%%02X", bytes[i])
		}
	}
	return escaped.String()
}

func needsEscape(at int, r rune) bool {
	switch r {
	case '.', '*', '%':
		return true
	case '$':
		return at == 0
	}
	return unicode.IsSpace(r) || unicode.IsControl(r)
}

// Unescape undoes [Escape]. Keys come from anyone: what is no escape stays as it is, and so does a segment
// whose escapes are not UTF-8.
func Unescape(segment string) string {
	if !strings.Contains(segment, "%") {
		return segment
	}
	text := make([]byte, 0, len(segment))
	for i := 0; i < len(segment); i++ {
		if segment[i] == '%' && i+2 < len(segment) {
			high, isHigh := hexDigit(segment[i+1])
			low, isLow := hexDigit(segment[i+2])
			if isHigh && isLow {
				text = append(text, high<<4|low)
				i += 2
				continue
			}
		}
		text = append(text, segment[i])
	}
	if !utf8.Valid(text) {
		return segment
	}
	return string(text)
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// Matches tells whether a key matches a pattern: * stands for one segment, at the end for the whole
// subtree.
func Matches(pattern, key string) bool {
	if strings.HasPrefix(pattern, "*") && strings.HasPrefix(key, "$") {
		return false
	}
	for {
		want, patternRest, patternGoesOn := strings.Cut(pattern, ".")
		if want == "*" && !patternGoesOn {
			return true
		}
		have, keyRest, keyGoesOn := strings.Cut(key, ".")
		if want != "*" && want != have {
			return false
		}
		if !patternGoesOn || !keyGoesOn {
			// The * at the end stands for the node before it, too.
			return patternGoesOn == keyGoesOn || !keyGoesOn && patternRest == "*"
		}
		pattern, key = patternRest, keyRest
	}
}

// checkPattern finds out what the daemon would say, where an answer would come too late.
func checkPattern(pattern string) error {
	if len(pattern) > keyBytesMax {
		return refused(ErrTooLarge, "a key has at most 512 bytes")
	}
	if !utf8.ValidString(pattern) {
		return refused(ErrBadKey, fmt.Sprintf("%q is not UTF-8", pattern))
	}
	for _, segment := range strings.Split(pattern, ".") {
		if segment == "" {
			return refused(ErrBadKey, fmt.Sprintf("%q has an empty segment", pattern))
		}
		for _, r := range segment {
			if r == '*' && segment != "*" || unicode.IsSpace(r) || unicode.IsControl(r) {
				return refused(ErrBadKey, fmt.Sprintf("%q has %q in a segment", pattern, r))
			}
		}
	}
	return nil
}
