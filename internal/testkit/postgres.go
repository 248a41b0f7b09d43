package testkit

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named pgx
)

// postgresPrograms is where Debian puts the programs of PostgreSQL 15.
const postgresPrograms = "/usr/lib/postgresql/15/bin"

// Postgres is a PostgreSQL server that runs for one test binary. It listens
// on a unix socket only and keeps nothing.
type Postgres struct {
	dir, socket string
	process     *exec.Cmd
	exited      chan struct{} // closed when the server has ended
	log         *bytes.Buffer // read only after exited
	databases   atomic.Int64
}

// StartPostgres makes and starts a server. PostgreSQL refuses to run as root:
// root's tests run it as the system's user postgres. The caller stops it.
func StartPostgres(ctx context.Context) (*Postgres, error) {
	dir, err := os.MkdirTemp("", "sallyport-pg-")
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p := &Postgres{dir: dir, socket: filepath.Join(dir, "run"), exited: make(chan struct{}), log: new(bytes.Buffer)}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), p.Stop())
	}
	return p, nil
}

func (p *Postgres) start(ctx context.Context) error {
	// Others may pass through the outer folder, not list it: the server's user must reach its own.
	if err := os.Chmod(p.dir, 0o711); err != nil {
		return err
	}
	attributes, err := p.own("data", "run")
	if err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(postgresPrograms, "initdb"),
		"-D", data, "-A", "trust", "-U", "postgres", "-N", "--locale=C.UTF-8")
	initdb.SysProcAttr = attributes
	initdb.Dir = data
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	p.process = exec.Command(filepath.Join(postgresPrograms, "postgres"),
		"-D", data, "-k", p.socket, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200")
	p.process.SysProcAttr = attributes
	p.process.Dir = data
	p.process.Stdout, p.process.Stderr = p.log, p.log
	if err := p.process.Start(); err != nil {
		p.process = nil
		return err
	}
	go func() {
		p.process.Wait()
		close(p.exited)
	}()
	return p.waitReady(ctx)
}

// own makes folders for the server's user and says how to run as that user.
func (p *Postgres) own(names ...string) (*syscall.SysProcAttr, error) {
	attributes := &syscall.SysProcAttr{}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		account, err := user.Lookup("postgres")
		if err != nil {
			return nil, fmt.Errorf("running as root, and %w", err)
		}
		if uid, err = strconv.Atoi(account.Uid); err != nil {
			return nil, err
		}
		if gid, err = strconv.Atoi(account.Gid); err != nil {
			return nil, err
		}
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	for _, name := range names {
		path := filepath.Join(p.dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return nil, err
		}
	}
	return attributes, nil
}

func (p *Postgres) url(database string) string {
	return "postgres:///" + database + "?host=" + p.socket + "&user=postgres"
}

func (p *Postgres) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the server ended: %s", p.log)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// Database makes a fresh, empty database and returns its address.
func (p *Postgres) Database(ctx context.Context) (url string, err error) {
	db, err := sql.Open("pgx", p.url("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	name := "test" + strconv.FormatInt(p.databases.Add(1), 10)
	if _, err := db.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create a database: %w", err)
	}
	return p.url(name), nil
}

// Stop ends the server, by its own process id, and removes what it wrote.
func (p *Postgres) Stop() error {
	if p.process != nil {
		p.process.Process.Signal(syscall.SIGINT) // "fast": open transactions are rolled back
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			p.process.Process.Kill()
			<-p.exited
		}
	}
	return os.RemoveAll(p.dir)
}
