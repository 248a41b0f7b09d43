// Package bastion is the SSH front door and the way through it.
//
// A byte travels like this:
//
//	client --SSH--> guard -> login -> decide -> relay ------------> upstream --SSH--> data server
//	                                              |  input:  journal -> forward
//	                                              |  output: journal -> client
//	                                              v
//	                                           recorder
//
//	guard.go       limits before authentication: places, time, bytes
//	login.go       verified key, then second factor; the Identity that comes out
//	enrol.go       the console of a one-time invite
//	connection.go  one authenticated client connection and its channels
//	channel.go     one session channel until its shell, exec or subsystem is asked for
//	session.go     decide, wait for approval, record, go upstream
//	upstream.go    short-lived certificate, pinned host, connection to the data server
//	relay.go       the pumps: nothing is forwarded or shown before it is durable
//	live.go        live sessions, decided again whenever something changes
//	local.go       the node's unix socket, served by the same code
//
// The package decides nothing about people and projects (authz does), writes
// no files (recorder does) and knows no verb of the command tree (console
// does). It refuses everything that it was not asked to allow.
package bastion
