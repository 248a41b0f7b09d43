package bastion

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"rsc.io/qr"

	"sallyport/authz"
)

// enrolTime bounds each answer at the enrolment.
const enrolTime = 10 * time.Minute

// enrol is the console of a one-time invite: terms, authenticator, recovery
// codes. Nothing is bound before the last answer is right, and then all at once.
func (ch *channel) enrol(ctx context.Context) ending {
	c := ch.conn
	inv := c.invited
	a := c.server.authority
	ch.say(fmt.Sprintf("Welcome to %s. This enrols %s with the key\n  %s %s\n\n",
		c.server.config.Name, inv.user.Name, inv.key.Type, inv.key.Fingerprint))
	version, ok := ch.acceptTerms(ctx)
	if !ok {
		return ending{status: exitDenied}
	}
	secret, uri, err := a.NewTOTPSecret(inv.user.Name)
	if err != nil {
		return ch.failed(ctx, err)
	}
	// The code stands right above the question, so that both fit on 24 rows.
	ch.say("Scan this with an authenticator app, or type the secret into it.\nSecret: " + grouped(secret) + "\n")
	if ch.hasPTY() {
		ch.say(drawQR(uri))
	} else {
		ch.say(uri + "\n")
	}
	for tries := factorTries; tries > 0; tries-- {
		code, err := ch.question(ctx, "Code that the app shows now: ", enrolTime)
		if err != nil {
			return ending{status: exitFailed}
		}
		codes, err := a.Enrol(ctx, authz.Enrolment{Token: inv.token, Key: inv.key, Secret: secret, Code: code,
			TermsVersion: version, RemoteAddr: c.identity.Actor().RemoteAddr, Connection: c.identity.Connection})
		switch {
		case err == nil:
			ch.enrolled(codes)
			return ending{}
		case errors.Is(err, authz.ErrWrongCode):
			ch.say(fmt.Sprintf("That code is not right (%s).\n", triesLeft(tries-1)))
		default:
			return ch.failed(ctx, err)
		}
	}
	ch.tell("No right code came, so nothing was enrolled; check that the phone's clock is right, then connect again: the invite is still good.")
	return ending{status: exitDenied}
}

// acceptTerms shows the terms, if there are any, and waits for "yes".
func (ch *channel) acceptTerms(ctx context.Context) (version string, ok bool) {
	version, text, err := ch.conn.server.authority.Terms(ctx)
	if err != nil {
		ch.failed(ctx, err)
		return "", false
	}
	if version == "" {
		return "", true
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  | " + printable(strings.TrimRight(line, "\r\n"), 200) + "\n")
	}
	ch.say("Terms of use (version " + version[:min(12, len(version))] + "):\n\n" + b.String() + "\n")
	answer, err := ch.question(ctx, "Type yes to accept them: ", enrolTime)
	if err != nil || !strings.EqualFold(answer, "yes") {
		ch.tell("The terms were not accepted, so nothing was enrolled.")
		return "", false
	}
	return version, true
}

// enrolled shows the recovery codes, once.
func (ch *channel) enrolled(codes []string) {
	var b strings.Builder
	b.WriteString("\nDone. Keep these recovery codes where only you can find them; each works once\nin place of a code, and they are not shown again:\n\n")
	for i, code := range codes {
		b.WriteString("  " + code)
		if i%2 == 1 || i == len(codes)-1 {
			b.WriteString("\n")
		}
	}
	c := ch.conn.server.config
	fmt.Fprintf(&b, "\nFrom now on: %s\n", SSHLine(ch.conn.invited.user.Name, c.Name, c.Port))
	ch.say(b.String())
}

// SSHLine is the ssh command that comes to the gate under a login name; port 0 is the usual one.
func SSHLine(login, name string, port int) string {
	if port == 0 || port == 22 {
		return fmt.Sprintf("ssh %s@%s", login, name)
	}
	return fmt.Sprintf("ssh -p %d %s@%s", port, login, name)
}

// grouped puts a space after each four characters.
func grouped(secret string) string {
	var b strings.Builder
	for i, r := range secret {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// drawQR draws a code with half blocks, two rows a line, light on dark in
// forced colours so that it can be scanned on any theme.
func drawQR(text string) string {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return text + "\n" // too long for a code: the text itself serves
	}
	const quiet = 2
	light := func(x, y int) bool { return !code.Black(x, y) } // outside of the code is light
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[97;40m")
		for x := -quiet; x < code.Size+quiet; x++ {
			switch upper, lower := light(x, y), light(x, y+1); {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}
