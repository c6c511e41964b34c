package cim

import "strings"

var wqlEscaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// Quote makes a WQL string literal. In WQL the backslash escapes both itself
// and the quote.
func Quote(s string) string { return "'" + wqlEscaper.Replace(s) + "'" }

var likeEscaper = strings.NewReplacer(`[`, `[[]`, `%`, `[%]`, `_`, `[_]`)

// LikePrefix makes the operand of LIKE that matches every text beginning with
// s. Brackets make the wildcards % _ [ in s literal.
func LikePrefix(s string) string { return Quote(likeEscaper.Replace(s) + "%") }

// Select makes a query for properties (none: all) of a class. Conditions are
// joined with AND; every literal in them must come from Quote or LikePrefix.
func Select(class string, props []string, conditions ...string) string {
	q := "SELECT *"
	if len(props) > 0 {
		q = "SELECT " + strings.Join(props, ", ")
	}
	q += " FROM " + class
	if len(conditions) > 0 {
		q += " WHERE " + strings.Join(conditions, " AND ")
	}
	return q
}

// Selected lists the properties that a query made by Select names, or nil for
// all.
func Selected(wql string) []string {
	list, ok := strings.CutPrefix(wql, "SELECT ")
	if !ok {
		return nil
	}
	list, _, ok = strings.Cut(list, " FROM ")
	if !ok || strings.Contains(list, "*") {
		return nil
	}
	return strings.Split(list, ", ")
}

// AnyOf joins conditions with OR.
func AnyOf(conditions ...string) string { return "(" + strings.Join(conditions, " OR ") + ")" }

// Assoc narrows an association query; empty fields do not restrict.
type Assoc struct{ Class, Result, Role, ResultRole string }

// AssociatorsOf makes the query for the instances that ref is associated with.
func AssociatorsOf(ref Ref, a Assoc) string {
	q := "ASSOCIATORS OF {" + ref.RelPath() + "}"
	where := ""
	for _, c := range [][2]string{{"AssocClass", a.Class}, {"ResultClass", a.Result}, {"Role", a.Role}, {"ResultRole", a.ResultRole}} {
		if c[1] != "" {
			where += " " + c[0] + " = " + c[1]
		}
	}
	if where != "" {
		q += " WHERE" + where
	}
	return q
}

// ReferencesOf makes the query for the association instances that name ref.
func ReferencesOf(ref Ref, class, role string) string {
	q := "REFERENCES OF {" + ref.RelPath() + "}"
	where := ""
	if class != "" {
		where += " ResultClass = " + class
	}
	if role != "" {
		where += " Role = " + role
	}
	if where != "" {
		q += " WHERE" + where
	}
	return q
}
