// Package oracle holds the tests that let transparency-dev/tessera judge the
// directories that package tlog and a whole recorder write, and the age command
// the envelopes of session keys. It is a module of its own, because tessera
// brings a tracing library and a logger that the product does not want.
package oracle
