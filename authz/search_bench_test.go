package authz

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"sallyport/internal/database"
)

// many fills the tables with events as they are at a site of 200 people: logins, decisions, sessions and
// commands. One in ten is an exec, whose events are three and whose entries five.
func (w *world) many(b *testing.B, events int) {
	b.Helper()
	const batch = 200 // within the time limit of one transaction also on a busy machine
	at, sequence := w.clock.Now().Add(-time.Duration(events)*time.Second), int64(1_000_000)
	tools := []string{"samtools view", "bcftools call", "Rscript qc.R", "plink --bfile", "python3 train.py", "ls -l", "cat summary.tsv"}
	for n := 0; n < events; {
		w.ok(w.db.Write(b.Context(), func(tx database.Tx) error {
			for range batch {
				at, sequence, n = at.Add(time.Second), sequence+1, n+1
				mixed := uint32(n) * 2654435761 >> 8 // so that people, projects and what they do are not in step
				user := fmt.Sprintf("user%03d", mixed%200)
				session := Session{ID: fmt.Sprintf("S-%026d", n), User: user, Project: fmt.Sprintf("project%02d", mixed/200%40),
					Connection: fmt.Sprintf("C-%026d", n/4), RemoteAddr: "192.0.2.7"}
				e := session.event("decision.allow")
				e.Details = map[string]any{"rule": "role.permits", "server": "db1", "role": "researcher", "action": "shell"}
				switch n % 10 {
				case 0:
					e = session.event("session.open")
					e.Details = map[string]any{"server": "db1", "action": ActionExec, "number": n}
					commandDetail(e.Details, fmt.Sprintf("%s /data/cohort%d/sample%d.bam --threads 8", tools[n/10%len(tools)], n%50, n%10007), false)
				case 1:
					e = session.event("session.close")
					e.Details = map[string]any{"server": "db1", "action": ActionExec, "result": "exited", "exit_code": 0, "bytes_out": n}
					commandDetail(e.Details, fmt.Sprintf("%s /data/cohort%d/sample%d.bam --threads 8", tools[n/10%len(tools)], n%50, n%10007), false)
				case 2, 3:
					e.OpType, e.ResourceType, e.ResourceID = "login.success", "connection", session.Connection
				}
				e.Time, e.Node, e.Sequence, e.ID, e.Result = at, w.options.Node, sequence, fmt.Sprintf("E-%026d", n), ResultOK
				leaf, err := e.leaf()
				if err != nil {
					return err
				}
				if _, err := tx.Exec(`INSERT INTO events (node, sequence, id, user_id, op_type, happened_at, resource_id, resource_type,
						remote_addr, project, session, connection, result, leaf)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, e.Node, e.Sequence, e.ID, e.UserID, e.OpType,
					milliseconds(e.Time), e.ResourceID, e.ResourceType, e.RemoteAddr, e.Project, e.Session, e.Connection, e.Result, leaf); err != nil {
					return err
				}
				if err := DeriveTables(tx, leaf); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// BenchmarkSearch measures one page of fifty hits over a million events, the recording of the search itself included.
// SEARCH_EVENTS is another number of them.
func BenchmarkSearch(b *testing.B) {
	events := 1_000_000
	if n, err := strconv.Atoi(os.Getenv("SEARCH_EVENTS")); err == nil {
		events = n
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			url := filepath.Join(b.TempDir(), "state.db")
			if engine == "postgres" {
				server, err := postgres.get()
				if err != nil {
					b.Fatal(err)
				}
				if url, err = server.Database(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			w := newWorld(b, url)
			began := time.Now()
			w.many(b, events)
			if engine == "postgres" { // as autovacuum does in its time
				w.ok(w.db.Write(b.Context(), func(tx database.Tx) error {
					_, err := tx.Exec("ANALYZE")
					return err
				}))
			}
			b.Logf("%d events in %s", events, time.Since(began).Round(time.Second))
			for name, q := range map[string]SearchQuery{
				"common":     {Text: "samtools"},
				"rare":       {Text: "sample7777.bam"},
				"phrase":     {Text: `"python3 train.py" cohort10`},
				"prefix":     {Text: "sample77*"},
				"person":     {Text: "samtools", User: "user070"},
				"everywhere": {Text: "decision"},
				"period":     {Text: "samtools", From: w.clock.Now().AddDate(0, 0, -3), To: w.clock.Now().AddDate(0, 0, -2)},
				"nothing":    {Text: "samtools decision login unheard"},
				"filters":    {Project: "project07", Kinds: []string{HitCommand}},
			} {
				q.Limit = 50
				b.Run(name, func(b *testing.B) {
					var took []time.Duration
					found := 0
					for b.Loop() {
						began := time.Now()
						hits, err := w.Search(b.Context(), w.as("odin"), q)
						if err != nil {
							b.Fatal(err)
						}
						took, found = append(took, time.Since(began)), len(hits)
					}
					slices.Sort(took)
					b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
					b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
					b.ReportMetric(float64(found), "hits")
				})
			}
		})
	}
}
