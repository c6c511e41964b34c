package guard

import (
	"bytes"
	"errors"
	"io"
)

// XML passes a document on, and fails where elements are nested deeper than
// depth: decoders call themselves for each level, and a full stack ends the
// program. It follows the syntax that encoding/xml accepts, and refuses
// document types, which no answer has.
func XML(r io.Reader, depth int) io.Reader { return &levels{r: r, limit: depth} }

type levels struct {
	r     io.Reader
	limit int
	depth int
	state byte
	last  byte // the previous byte, inside of a tag
	quote byte // the end of the attribute's value, or of the part of the document that is passed over
	run   int  // number of bytes of that end that were seen
	err   error
}

// States: the position of the next byte.
const (
	inText    = iota
	afterOpen // <
	afterBang // <!
	inTag     // of a start
	inValue   // of an attribute, until quote
	inEnd     // of an element
	inData    // comment, CDATA or instruction, until run bytes of quote and >
)

var errDoctype = errors.New("the server's answer has a document type, which is not read")

func (l *levels) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p)
	for rest := p[:n]; len(rest) > 0; rest = rest[1:] {
		if l.state == inText { // most of a document
			i := bytes.IndexByte(rest, '<')
			if i < 0 {
				break
			}
			rest = rest[i:]
		}
		if l.next(rest[0]); l.err != nil {
			return 0, l.err
		}
	}
	return n, err
}

func (l *levels) next(b byte) {
	switch l.state {
	case inText:
		if b == '<' {
			l.state = afterOpen
		}
	case afterOpen:
		l.last = b
		switch b {
		case '/':
			l.state = inEnd
		case '?':
			l.state, l.quote, l.run = inData, '?', 0
		case '!':
			l.state = afterBang
		default:
			l.state = inTag
			if l.depth++; l.depth > l.limit {
				l.err = &LimitError{"levels", int64(l.limit)}
			}
		}
	case afterBang:
		switch b {
		case '-': // <!-- … -->
			l.state, l.quote, l.run = inData, '-', -1
		case '[': // <![CDATA[ … ]]>
			l.state, l.quote, l.run = inData, ']', 0
		default:
			l.err = errDoctype
		}
	case inTag:
		switch {
		case b == '"' || b == '\'':
			l.state, l.quote = inValue, b
		case b == '>':
			if l.state = inText; l.last == '/' {
				l.depth--
			}
		}
		l.last = b
	case inValue:
		if b == l.quote {
			l.state, l.last = inTag, b
		}
	case inEnd:
		if b == '>' {
			l.state = inText
			l.depth--
		}
	case inData:
		want := 2
		if l.quote == '?' {
			want = 1
		}
		switch {
		case b == l.quote:
			l.run++
		case b == '>' && l.run >= want:
			l.state = inText
		default:
			l.run = 0
		}
	}
}
