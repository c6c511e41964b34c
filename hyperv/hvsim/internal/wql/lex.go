package wql

import (
	"fmt"
	"strings"
)

type token struct {
	kind byte // w word, s string, n number, o operator, b {path}
	text string
}

func lex(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '\'' || c == '"':
			var b strings.Builder
			j := i + 1
			for ; j < len(s) && s[j] != c; j++ {
				// A backslash escapes a quote or a backslash.
				if s[j] == '\\' && j+1 < len(s) && (s[j+1] == '\\' || s[j+1] == '\'' || s[j+1] == '"') {
					j++
				}
				b.WriteByte(s[j])
			}
			if j >= len(s) {
				return nil, fmt.Errorf("%w: unterminated string in %q", ErrQuery, s)
			}
			out = append(out, token{'s', b.String()})
			i = j + 1
		case c == '{':
			j, quote := i+1, byte(0)
			for ; j < len(s) && (s[j] != '}' || quote != 0); j++ {
				switch {
				case quote != 0 && s[j] == '\\' && j+1 < len(s):
					j++
				case quote != 0 && s[j] == quote:
					quote = 0
				case quote == 0 && (s[j] == '"' || s[j] == '\''):
					quote = s[j]
				}
			}
			if j >= len(s) {
				return nil, fmt.Errorf("%w: unterminated path in %q", ErrQuery, s)
			}
			out = append(out, token{'b', strings.TrimSpace(s[i+1 : j])})
			i = j + 1
		case strings.IndexByte("=<>!", c) >= 0:
			j := i + 1
			if j < len(s) && (s[j] == '=' || c == '<' && s[j] == '>') {
				j++
			}
			out = append(out, token{'o', s[i:j]})
			i = j
		case strings.IndexByte("(),*", c) >= 0:
			out = append(out, token{'o', s[i : i+1]})
			i++
		case c >= '0' && c <= '9' || c == '-' || c == '+':
			j := i + 1
			for j < len(s) && (s[j] >= '0' && s[j] <= '9' || s[j] == '.' || s[j] == 'x' || s[j] >= 'a' && s[j] <= 'f' || s[j] >= 'A' && s[j] <= 'F') {
				j++
			}
			out = append(out, token{'n', s[i:j]})
			i = j
		case isWord(c):
			j := i
			for j < len(s) && (isWord(s[j]) || s[j] >= '0' && s[j] <= '9' || s[j] == '.') {
				j++
			}
			out = append(out, token{'w', s[i:j]})
			i = j
		default:
			return nil, fmt.Errorf("%w: %q in %q", ErrQuery, c, s)
		}
	}
	return out, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
