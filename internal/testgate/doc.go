// Package testgate makes nodes with people and runs `sallyport serve` for them:
// what the benchmark and the fault harness stand on.
//
// A Site is a node that does not run, with one project, one data server and
// people who have enrolled. It can be copied, so that each round of a harness
// begins from the same state. A Gate is a process of the built program on a
// site's files; it is started, stopped and killed as often as one likes.
//
// It opens no way that the product does not have: everything goes through the
// node's own API before it runs, and through SSH while it does.
package testgate
