package main

import (
	"context"
	"fmt"
	"time"

	"sallyport/authz"
	"sallyport/internal/testkit"
	"sallyport/recorder"
)

// person is a member of the benchmark's project who may do everything that a
// baseline's account may: shell, exec, both directions.
type person struct {
	name          string
	key           testkit.Key
	authenticator *testkit.Authenticator
}

// administrator and manager are the two acts of authority that a project
// needs; the manager never logs in.
const (
	administrator = "admin"
	manager       = "manager"
)

// reason stands in the node's ledger beside each act of the set-up.
const reason = "set up for a benchmark run"

// populate makes the project, its data server and one enrolled exporter for each account.
// invite is the one that the administrator got when the node was made.
func populate(ctx context.Context, a *authz.Authority, invite, dir string, target *testkit.SSHD, accounts []string) ([]*person, error) {
	if _, err := enrol(ctx, a, dir, administrator, invite); err != nil {
		return nil, err
	}
	admin := authz.Actor{User: administrator, RemoteAddr: "local", Via: "socket"}
	until := time.Now().Add(24 * time.Hour).UTC()
	newcomer := func(name string) (*person, error) {
		if err := a.AddUser(ctx, admin, authz.User{Name: name, Display: name}); err != nil {
			return nil, fmt.Errorf("adding %s: %w", name, err)
		}
		token, _, err := a.CreateInvite(ctx, admin, name, time.Hour)
		if err != nil {
			return nil, fmt.Errorf("inviting %s: %w", name, err)
		}
		return enrol(ctx, a, dir, name, token)
	}
	err := a.AddProject(ctx, admin, authz.Project{Name: project, Title: "Benchmark", Level: "type1", State: "active",
		From: time.Now().Add(-time.Hour).UTC(), Until: until})
	if err != nil {
		return nil, fmt.Errorf("adding the project: %w", err)
	}
	err = a.AddServer(ctx, admin, authz.Server{Project: project, Name: "target", Address: target.Address,
		HostKey: testkit.AuthorizedLine(target.HostKey.Signer.PublicKey())})
	if err != nil {
		return nil, fmt.Errorf("adding the data server: %w", err)
	}
	if _, err := newcomer(manager); err != nil {
		return nil, err
	}
	if _, err := a.AddMember(ctx, admin, authz.Membership{User: manager, Project: project, Role: authz.RoleManager,
		Account: manager, Reason: reason, ExpiresAt: until}); err != nil {
		return nil, fmt.Errorf("making the manager one: %w", err)
	}
	by := authz.Actor{User: manager, RemoteAddr: "127.0.0.1", Via: "ssh"}
	if err := addEpoch(ctx, a, admin, until); err != nil {
		return nil, err
	}
	var people []*person
	for i, account := range accounts {
		name := fmt.Sprintf("person%d", i+1)
		p, err := newcomer(name)
		if err != nil {
			return nil, err
		}
		if _, err := a.AddMember(ctx, by, authz.Membership{User: name, Project: project, Role: authz.RoleExporter,
			Account: account, Reason: reason, ExpiresAt: until}); err != nil {
			return nil, fmt.Errorf("adding %s to the project: %w", name, err)
		}
		people = append(people, p)
	}
	return people, nil
}

// addEpoch registers the auditors' public keys; the private halves are dropped,
// since nobody reads these recordings back.
func addEpoch(ctx context.Context, a *authz.Authority, by authz.Actor, until time.Time) error {
	keys, err := recorder.NewEpochKeys()
	if err != nil {
		return err
	}
	err = a.AddEpoch(ctx, by, authz.Epoch{ID: project + "/bench", Project: project,
		Recipient: keys.Recipient, Strict: keys.Strict, ExpiresAt: until})
	if err != nil {
		return fmt.Errorf("adding the epoch key: %w", err)
	}
	return nil
}

// enrol binds a key and an authenticator to a person, as the dialogue of an invite does.
func enrol(ctx context.Context, a *authz.Authority, dir, name, token string) (*person, error) {
	key, err := testkit.MakeKey(dir, name)
	if err != nil {
		return nil, err
	}
	checked, err := authz.CheckKey(key.Authorized)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	secret, _, err := a.NewTOTPSecret(name)
	if err != nil {
		return nil, fmt.Errorf("second factor of %s: %w", name, err)
	}
	device, err := testkit.MakeAuthenticator(dir, name, secret)
	if err != nil {
		return nil, err
	}
	code, err := device.Code(ctx)
	if err != nil {
		return nil, err
	}
	terms, _, err := a.Terms(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the terms: %w", err)
	}
	if _, err := a.Enrol(ctx, authz.Enrolment{Token: token, Key: checked, Secret: secret, Code: code,
		TermsVersion: terms, RemoteAddr: "127.0.0.1"}); err != nil {
		return nil, fmt.Errorf("enrolling %s: %w", name, err)
	}
	return &person{name: name, key: key, authenticator: device}, nil
}
