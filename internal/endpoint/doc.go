// Package endpoint is the common part of the drivers' URLs and
// configurations, so that one thing has one name and one meaning in all of
// them: the parameters of a URL, the user and the password, and the
// verification of a server's certificate.
//
// A URL parameter has the name of its Config field in lower case.
package endpoint
