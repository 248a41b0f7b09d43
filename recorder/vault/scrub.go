package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sallyport/recorder/trec"
)

// Expected is what the ledger says of one finished recording.
type Expected struct {
	Index   int64  // of the entry in the ledger
	Session string // S-…
	Root    string // hex, of the recording's tree
	Size    int64  // bytes
}

// Source reads the finished recordings of the ledger, in its order, from an entry on.
type Source func(from int64) iter.Seq2[Expected, error]

// Form is one of the two places of a recording.
type Form string

// The forms.
const (
	First  Form = "first"
	Second Form = "second"
)

// Finding is one form that is not as the ledger says.
type Finding struct {
	Session string `json:"session"` // "" for the folder of a form as a whole
	Form    Form   `json:"form"`
	Fault   string `json:"fault"`          // what is wrong
	Good    Form   `json:"good,omitempty"` // the form that is whole; "" when none is
}

// String is the finding as people read it.
func (f Finding) String() string {
	if f.Session == "" {
		return fmt.Sprintf("the %s form of all: %s", f.Form, f.Fault)
	}
	if f.Good == "" {
		return fmt.Sprintf("%s: the %s form: %s; no form of it is whole", f.Session, f.Form, f.Fault)
	}
	return fmt.Sprintf("%s: the %s form: %s; the %s one is whole", f.Session, f.Form, f.Fault, f.Good)
}

// Report is what a scrub found.
type Report struct {
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished,omitzero"`  // zero while it runs, or was interrupted
	Next       int64     `json:"next"`               // the entry of the ledger to go on with
	Recordings int64     `json:"recordings"`         // looked at
	Bytes      int64     `json:"bytes"`              // read, of both forms
	Waiting    int64     `json:"waiting"`            // not copied yet
	Faults     int64     `json:"faults"`             // how many there are
	Findings   []Finding `json:"findings,omitempty"` // the first of them
}

// Intact reports whether nothing is wrong.
func (r Report) Intact() bool { return r.Faults == 0 }

// maxFindings bounds what a report holds; a lost disk has a fault for every recording.
const maxFindings = 100

// Interval is how long after the end of a scrub the next one is due.
const Interval = 7 * 24 * time.Hour

// ErrScrubbing says that a scrub runs already.
var ErrScrubbing = errors.New("a scrub runs already")

// stateEvery is after how many recordings a scrub notes how far it is.
const stateEvery = 64

func (v *Vault) reportFile() string { return filepath.Join(v.o.State, "scrub.json") }

func (v *Vault) loadReport() error {
	text, err := os.ReadFile(v.reportFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the last scrub: %w", err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil || r.Next < 0 {
		// It says nothing that a scrub would not find again.
		v.o.Log.Warn("what is known of the last scrub cannot be read; it begins anew", "error", err)
		return nil
	}
	v.last = &r
	return nil
}

func (v *Vault) saveReport(r Report) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := v.reportFile() + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("note the scrub: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = realDisk{}.rename(tmp, v.reportFile())
	}
	if err != nil {
		return fmt.Errorf("note the scrub: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = &r
	return nil
}

// LastScrub is the last scrub, finished or not; false when there was none.
func (v *Vault) LastScrub() (Report, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last == nil {
		return Report{}, false
	}
	return *v.last, true
}

// Due reports whether a scrub is due: the last one did not finish, or began an Interval ago.
func (v *Vault) Due() bool {
	last, ok := v.LastScrub()
	return !ok || last.Finished.IsZero() || !v.o.Clock().Before(last.Finished.Add(Interval))
}

// Scrub re-reads every finished recording in both forms, checks it with the node's key, and compares
// it with the ledger. It goes on where an earlier one was interrupted, reads no faster than Options.Rate, and
// repairs nothing. progress, if not nil, is called now and then. The error is about reading the ledger or
// ctx; what is wrong with recordings is in the report, and in the log at once. When ctx ends
// it does not wait for a disk that does not answer.
func (v *Vault) Scrub(ctx context.Context, from Source, progress func(Report)) (Report, error) {
	return within(ctx, func() (Report, error) { return v.scrub(ctx, from, progress) })
}

func (v *Vault) scrub(ctx context.Context, from Source, progress func(Report)) (Report, error) {
	select {
	case v.scrubbing <- struct{}{}:
		defer func() { <-v.scrubbing }()
	default:
		return Report{}, ErrScrubbing
	}
	r, interrupted := v.LastScrub()
	if !interrupted || !r.Finished.IsZero() {
		r = Report{Started: v.o.Clock().UTC()}
	}
	pace := &pace{rate: v.o.Rate}
	for e, err := range from(r.Next) {
		if err == nil {
			err = v.scrubOne(ctx, pace, e, &r)
		}
		if err != nil {
			return r, errors.Join(fmt.Errorf("scrub: %w", err), v.saveReport(r))
		}
		r.Next = e.Index + 1
		if r.Recordings++; r.Recordings%stateEvery == 0 {
			if err := v.saveReport(r); err != nil {
				return r, err
			}
		}
		if progress != nil {
			progress(r)
		}
	}
	r.Finished, r.Next = v.o.Clock().UTC(), 0
	return r, v.saveReport(r)
}

// scrubOne checks the forms of one recording. Its error is that of ctx.
func (v *Vault) scrubOne(ctx context.Context, pace *pace, e Expected, r *Report) error {
	forms := []Form{First}
	switch {
	case v.o.Second == "":
	case !v.copiedOnce(e.Session):
		r.Waiting++
	case v.second() != nil:
		v.noSecond(r) // each recording of it would be missing
	default:
		forms = append(forms, Second)
	}
	var good Form
	faults := map[Form]string{}
	for _, form := range forms {
		fault, err := v.checkForm(ctx, pace, form, e, r)
		if err != nil {
			return err
		}
		if fault == "" {
			good = form
		} else {
			faults[form] = fault
		}
	}
	for _, form := range forms {
		if fault := faults[form]; fault != "" {
			f := Finding{Session: e.Session, Form: form, Fault: fault, Good: good}
			v.o.Log.Error("a stored recording is not as the ledger says; it is left as it is", "session", f.Session, "form", f.Form, "fault", f.Fault, "good", f.Good)
			if r.Faults++; len(r.Findings) < maxFindings {
				r.Findings = append(r.Findings, f)
			}
		}
	}
	return nil
}

// noSecond is one fault for the whole second folder, and once in a scrub.
func (v *Vault) noSecond(r *Report) {
	f := Finding{Form: Second, Fault: ErrNoSecond.Error()}
	if slices.Contains(r.Findings, f) {
		return
	}
	v.o.Log.Error("the second form of recordings was not looked at", "error", ErrNoSecond)
	r.Faults++
	r.Findings = append([]Finding{f}, r.Findings[:min(len(r.Findings), maxFindings-1)]...)
}

func (v *Vault) copiedOnce(session string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.copied[session] || v.lost[session] != ""
}

// checkForm reads one file, and says what is wrong with it; "" when nothing is.
func (v *Vault) checkForm(ctx context.Context, pace *pace, form Form, e Expected, r *Report) (fault string, err error) {
	dir := v.o.Dir
	if form == Second {
		dir = v.o.Second
	}
	f, err := os.Open(v.path(dir, e.Session))
	if errors.Is(err, fs.ErrNotExist) {
		return "it is missing", nil
	}
	if err != nil {
		return "it cannot be read: " + cause(err), nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "it cannot be read: " + cause(err), nil
	}
	if info.Size() != e.Size {
		return fmt.Sprintf("it has %d bytes, and the ledger says %d", info.Size(), e.Size), nil
	}
	uncache(f)
	report, err := trec.Verify(pace.reader(ctx, f), v.o.NodeKey, nil)
	uncache(f)
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	r.Bytes += info.Size()
	switch {
	case err != nil:
		return "it cannot be read: " + cause(err), nil
	case !report.Intact || !report.Complete:
		return damage(report), nil
	case report.Session != e.Session:
		return "it is the recording of another session, " + report.Session, nil
	case report.Root != e.Root:
		return "it is whole, and not the recording that the ledger knows", nil
	}
	return "", nil
}

// damage says what is wrong with a file, and where.
func damage(r trec.Report) string {
	for _, f := range r.Findings {
		if f.Broken {
			return fmt.Sprintf("it is damaged at byte %d: %s", f.Offset, f.Text)
		}
	}
	return "it has no signed end"
}

// cause is an error without the name of the file.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// pace slows reading down.
type pace struct {
	rate int64 // bytes a second; 0: none
	debt time.Duration
}

// leastPause is what is worth a pause: shorter ones are saved up.
const leastPause = 20 * time.Millisecond

func (p *pace) reader(ctx context.Context, r io.Reader) io.Reader { return &pacedReader{ctx, p, r} }

type pacedReader struct {
	ctx context.Context
	p   *pace
	r   io.Reader
}

func (r *pacedReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(b)
	if r.p.rate <= 0 {
		return n, err
	}
	if r.p.debt += time.Duration(float64(n) / float64(r.p.rate) * float64(time.Second)); r.p.debt >= leastPause {
		pause := time.NewTimer(r.p.debt)
		defer pause.Stop()
		r.p.debt = 0
		select {
		case <-pause.C:
		case <-r.ctx.Done():
			return n, context.Cause(r.ctx)
		}
	}
	return n, err
}
