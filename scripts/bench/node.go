package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport/internal/config"
	"sallyport/internal/node"
	"sallyport/internal/testkit"
)

// madeNode is a node on disk that does not run.
type madeNode struct {
	config *config.Config
	invite string        // the administrator's
	userCA ssh.PublicKey // what the data server has to trust
	host   ssh.PublicKey // what clients have to trust
}

// makeNode makes a node in dir as `sallyport init` does.
func makeNode(ctx context.Context, dir string) (*madeNode, error) {
	port, err := testkit.FreePort()
	if err != nil {
		return nil, err
	}
	made, err := node.Init(ctx, dir, node.InitOptions{
		Name: "gate.bench", Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Metrics: "off",
		Admin: administrator, Display: "Administrator",
	})
	if err != nil {
		return nil, fmt.Errorf("making the node: %w", err)
	}
	c, err := config.Load(made.Config)
	if err != nil {
		return nil, err
	}
	m := &madeNode{config: c, invite: made.Invite}
	if m.userCA, err = publicHalf(c.CA.User); err != nil {
		return nil, err
	}
	if m.host, err = publicHalf(c.HostKeys[0]); err != nil {
		return nil, err
	}
	return m, nil
}

// populate opens the node without serving it, and puts project, data server and people in.
func (m *madeNode) populate(ctx context.Context, dir string, target *testkit.SSHD, accounts []string) (people []*person, err error) {
	n, err := node.Open(ctx, m.config, node.Options{Version: "bench"})
	if err != nil {
		return nil, fmt.Errorf("opening the node: %w", err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return populate(ctx, n.Authority, m.invite, dir, target, accounts)
}

// publicHalf reads the public key of a private key file.
func publicHalf(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signer.PublicKey(), nil
}

// greets reports whether something at the address answers with an SSH version line.
func greets(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	var version [4]byte
	_, err = io.ReadFull(c, version[:])
	return err == nil && strings.HasPrefix(string(version[:]), "SSH-")
}
