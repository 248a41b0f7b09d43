// Package bastion is the SSH front door and the way through it.
//
// A byte travels like this:
//
//	client --SSH--> guard -> login -> decide -> relay ------------> upstream --SSH--> data server
//	                                              |  input:  record -> forward
//	                                              |  output: record -> client
//	                                              v
//	                                           recorder
//
//	server.go      the listener, its limits, the drain
//	guard.go       limits before authentication: places, time, bytes
//	algorithms.go  what is negotiated; address.go: what a user name says
//	login.go       verified key, then second factor; the Identity that comes out
//	enrol.go       the console of a one-time invite
//	connection.go  one authenticated client connection and its channels
//	channel.go     one session channel until its shell, exec or subsystem is asked for
//	menu.go        where to, when there are several places; prompt.go: questions
//	approval.go    an operator's request, and the wait for it
//	session.go     decide, record, go upstream, and how it ended
//	upstream.go    short-lived certificate, pinned host, connection to the data server
//	relay.go       the pumps: nothing is forwarded or shown before it is durable
//	live.go        live sessions, decided again whenever something changes
//	local.go       the node's unix socket, served by the same code
//	verbs.go       what the front door needs of the command tree
//	strangers.go   refusals before authentication, counted; metrics.go, text.go
//
// The package decides nothing about people and projects (authz does), writes
// no files (recorder does) and knows no verb of the command tree (console
// does). It refuses everything that it was not asked to allow.
package bastion
