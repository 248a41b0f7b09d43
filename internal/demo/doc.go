// Package demo runs the whole product on loopback, in one process and one
// folder: a real node with its database, ledger and recordings, two projects
// with a data server each, and people with keys and authenticators. Run seeds
// it through the node's public API, prints how to come in as each person, and
// stays; with Options.Tour it plays the story with the real ssh client and stops
// at the first step that is not as told.
//
//	state.go       the folder, and that one demo at a time owns it
//	dataserver.go  the data servers: who comes in, by which certificate
//	session.go     what a session on a data server may ask for
//	program.go     shells and commands, their terminals and their end
//	files.go       SFTP, held inside the account's folder
//	sample.go      synthetic data to look at
//	people.go      who is in the story
//	seed.go        users, projects, servers and memberships
//	code.go        people's one-time codes
//	client.go      the ssh client, driven on a terminal
//	tour.go        the tour: steps, logins, shared connections
//	story.go       what the people do
//	audit.go       what the auditor does
//
// It is for looking and for tests. It keeps in one folder what belongs to
// different people: private keys, TOTP secrets, the auditors' key. Shells run
// as the account that started it. It refuses to listen anywhere but on
// loopback, to wipe a folder that is not a demo's, and to share a folder with a
// demo that runs.
package demo
