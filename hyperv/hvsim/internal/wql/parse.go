// Package wql parses and evaluates the WMI query language: SELECT with a WHERE clause, event queries,
// ASSOCIATORS OF and REFERENCES OF. [D: "WQL (SQL for WMI)"]
package wql

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrQuery is wrapped by every refusal of a query.
var ErrQuery = errors.New("invalid query")

// Kind is the statement kind.
type Kind int

// Statement kinds.
const (
	Select Kind = iota
	Associators
	References
)

// Query is a parsed statement.
type Query struct {
	Kind   Kind
	Fields []string // nil for *
	Class  string
	Within float64 // seconds, event queries; -1 if absent
	Where  Expr    // nil if absent

	// ASSOCIATORS OF and REFERENCES OF
	Path                                      string
	AssocClass, ResultClass, Role, ResultRole string
	ClassDefsOnly, KeysOnly                   bool
}

// Expr is a condition.
type Expr interface{}

// And, Or and Not combine conditions; Compare is a leaf.
type (
	And struct{ L, R Expr }
	Or  struct{ L, R Expr }
	Not struct{ X Expr }
	// Compare is Name Op Value. Op is one of = <> < > <= >= LIKE ISA NULL NOTNULL.
	Compare struct {
		Name  string
		Op    string
		Value any // string, float64, int64, uint64, bool or nil
	}
)

// Parse reads a statement.
func Parse(s string) (*Query, error) {
	toks, err := lex(s)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	var q *Query
	switch {
	case p.word("SELECT"):
		q, err = p.selectStmt()
	case p.word("ASSOCIATORS"):
		q, err = p.ofStmt(Associators)
	case p.word("REFERENCES"):
		q, err = p.ofStmt(References)
	default:
		return nil, fmt.Errorf("%w: %q", ErrQuery, s)
	}
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.toks) {
		return nil, p.bad("end of the query")
	}
	return q, nil
}

type parser struct {
	toks []token
	pos  int
}

func (p *parser) peek() token {
	if p.pos < len(p.toks) {
		return p.toks[p.pos]
	}
	return token{}
}

func (p *parser) bad(want string) error {
	return fmt.Errorf("%w: %q where %s was expected", ErrQuery, p.peek().text, want)
}

func (p *parser) word(w string) bool {
	if t := p.peek(); t.kind == 'w' && strings.EqualFold(t.text, w) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) op(o string) bool {
	if t := p.peek(); t.kind == 'o' && t.text == o {
		p.pos++
		return true
	}
	return false
}

func (p *parser) name() (string, error) {
	if t := p.peek(); t.kind == 'w' {
		p.pos++
		return t.text, nil
	}
	return "", p.bad("a name")
}

func (p *parser) selectStmt() (*Query, error) {
	q := &Query{Within: -1}
	if !p.op("*") {
		for {
			n, err := p.name()
			if err != nil {
				return nil, err
			}
			q.Fields = append(q.Fields, n)
			if !p.op(",") {
				break
			}
		}
	}
	if !p.word("FROM") {
		return nil, p.bad("FROM")
	}
	var err error
	if q.Class, err = p.name(); err != nil {
		return nil, err
	}
	if p.word("WITHIN") {
		t := p.peek()
		if q.Within, err = strconv.ParseFloat(t.text, 64); err != nil || t.kind != 'n' {
			return nil, p.bad("seconds")
		}
		p.pos++
	}
	if p.word("WHERE") {
		if q.Where, err = p.or(); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (p *parser) or() (Expr, error) {
	l, err := p.and()
	for err == nil && p.word("OR") {
		var r Expr
		if r, err = p.and(); err == nil {
			l = Or{l, r}
		}
	}
	return l, err
}

func (p *parser) and() (Expr, error) {
	l, err := p.not()
	for err == nil && p.word("AND") {
		var r Expr
		if r, err = p.not(); err == nil {
			l = And{l, r}
		}
	}
	return l, err
}

func (p *parser) not() (Expr, error) {
	if p.word("NOT") {
		x, err := p.not()
		return Not{x}, err
	}
	if p.op("(") {
		x, err := p.or()
		if err == nil && !p.op(")") {
			err = p.bad(")")
		}
		return x, err
	}
	return p.compare()
}

func (p *parser) compare() (Expr, error) {
	if t := p.peek(); t.kind != 'w' {
		// WQL accepts the constant on either side.
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		o := p.peek()
		p.pos++
		n, err := p.name()
		if err != nil || o.kind != 'o' {
			return nil, p.bad("a comparison")
		}
		mirror := map[string]string{"=": "=", "<>": "<>", "!=": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}[o.text]
		if mirror == "" {
			return nil, p.bad("an operator")
		}
		return Compare{n, mirror, v}, nil
	}
	n, err := p.name()
	if err != nil {
		return nil, err
	}
	switch {
	case p.word("IS"):
		op := "NULL"
		if p.word("NOT") {
			op = "NOTNULL"
		}
		if !p.word("NULL") {
			return nil, p.bad("NULL")
		}
		return Compare{Name: n, Op: op}, nil
	case p.word("LIKE"):
		return p.textOp(n, "LIKE")
	case p.word("ISA"):
		return p.textOp(n, "ISA")
	case p.word("NOT"):
		if !p.word("LIKE") {
			return nil, p.bad("LIKE")
		}
		x, err := p.textOp(n, "LIKE")
		return Not{x}, err
	}
	o := p.peek()
	if o.kind != 'o' {
		return nil, p.bad("an operator")
	}
	p.pos++
	op := o.text
	switch op {
	case "!=":
		op = "<>"
	case "=", "<>", "<", ">", "<=", ">=":
	default:
		p.pos--
		return nil, p.bad("an operator")
	}
	// A property may be compared with another one, or with __SERVER [O: libvirt].
	if t := p.peek(); t.kind == 'w' && !constant[strings.ToUpper(t.text)] {
		p.pos++
		return Compare{n, op, Field(t.text)}, nil
	}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if v == nil {
		switch op {
		case "=":
			return Compare{Name: n, Op: "NULL"}, nil
		case "<>":
			return Compare{Name: n, Op: "NOTNULL"}, nil
		}
		return nil, p.bad("a value")
	}
	return Compare{n, op, v}, nil
}

var constant = map[string]bool{"TRUE": true, "FALSE": true, "NULL": true}

// Field is the right side of a comparison of two fields.
type Field string

func (p *parser) textOp(name, op string) (Expr, error) {
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	s, ok := v.(string)
	if !ok {
		return nil, p.bad("a string")
	}
	return Compare{name, op, s}, nil
}

func (p *parser) value() (any, error) {
	t := p.peek()
	p.pos++
	switch t.kind {
	case 's':
		return t.text, nil
	case 'n':
		if n, err := strconv.ParseInt(t.text, 0, 64); err == nil {
			return n, nil
		}
		if n, err := strconv.ParseUint(t.text, 0, 64); err == nil {
			return n, nil
		}
		if f, err := strconv.ParseFloat(t.text, 64); err == nil {
			return f, nil
		}
	case 'w':
		switch strings.ToUpper(t.text) {
		case "TRUE":
			return true, nil
		case "FALSE":
			return false, nil
		case "NULL":
			return nil, nil
		}
	}
	p.pos--
	return nil, p.bad("a value")
}

func (p *parser) ofStmt(k Kind) (*Query, error) {
	q := &Query{Kind: k, Within: -1}
	if !p.word("OF") {
		return nil, p.bad("OF")
	}
	t := p.peek()
	if t.kind != 'b' || t.text == "" {
		return nil, p.bad("{path}")
	}
	p.pos++
	q.Path = t.text
	if !p.word("WHERE") {
		return q, nil
	}
	n := 0
	for p.pos < len(p.toks) {
		w, err := p.name()
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(w, "ClassDefsOnly") {
			q.ClassDefsOnly = true
		} else if strings.EqualFold(w, "KeysOnly") {
			q.KeysOnly = true
		} else {
			var to *string
			switch strings.ToLower(w) {
			case "assocclass":
				to = &q.AssocClass
			case "resultclass":
				to = &q.ResultClass
			case "role":
				to = &q.Role
			case "resultrole":
				to = &q.ResultRole
			}
			if to == nil || (k == References && (to == &q.AssocClass || to == &q.ResultRole)) || !p.op("=") {
				return nil, p.bad("an association clause")
			}
			if *to, err = p.name(); err != nil {
				return nil, err
			}
		}
		n++
	}
	if n == 0 {
		return nil, p.bad("an association clause")
	}
	return q, nil
}
