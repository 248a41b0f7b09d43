// Package layering holds the rules of the house as tests: which package may
// import which, where a dependency may be used, and what the documentation has
// to say of each. It has no code that runs.
//
// The reason for each rule is in docs/architecture.md. A new package is put into
// the table of layers here before it compiles into the tree.
package layering
