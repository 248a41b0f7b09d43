package console

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/authz"
)

func (k *call) keyNoun() *cobra.Command {
	return noun("key", "Public keys of people", k.keyLs(), k.keyAdd(), k.keyRm())
}

func (k *call) keyLs() *cobra.Command {
	return verb("ls [USER]", "List keys, one's own by default", func(c *cobra.Command, args []string) error {
		keys, err := k.Authority.Keys(c.Context(), k.by(), k.selfOr(args))
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(list(keys))
		}
		t := table{heads: []string{"!FINGERPRINT", "TYPE", "COMMENT", "USED"}, empty: "There are no keys."}
		for _, key := range keys {
			used := day(key.LastUsedAt)
			if !key.RemovedAt.IsZero() {
				used = "removed"
			}
			t.add(key.Fingerprint, strings.TrimPrefix(key.Type, "ssh-"), dash(key.Comment), used)
		}
		t.write(k)
		return nil
	})
}

// selfOr is the person whom the first word names, or else the caller.
func (k *call) selfOr(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return k.by().User
}

func (k *call) keyAdd() *cobra.Command {
	c := verb("add [USER]", "Add a public key, read from standard input", func(c *cobra.Command, args []string) error {
		text, err := k.readStdin("a public key as one line of authorized_keys")
		if err != nil {
			return err
		}
		key, err := authz.CheckKey(strings.TrimSpace(text))
		if err != nil {
			return err
		}
		if err := k.Authority.AddKey(c.Context(), k.by(), k.selfOr(args), key); err != nil {
			return err
		}
		key.User = k.selfOr(args)
		return k.done(key, "added %s for %s", key.Fingerprint, key.User)
	})
	c.Example = "  ssh gate key add alice < id_ed25519.pub"
	return c
}

func (k *call) keyRm() *cobra.Command {
	var reason string
	return reasonFlag(verb("rm FINGERPRINT", "Remove a key; it can belong to nobody else later", func(c *cobra.Command, args []string) error {
		if err := k.Authority.RemoveKey(c.Context(), k.by(), args[0], reason); err != nil {
			return err
		}
		return k.done(map[string]string{"fingerprint": args[0], "state": "removed"}, "removed %s", args[0])
	}), &reason)
}

func (k *call) factorNoun() *cobra.Command {
	var reason string
	return noun("factor", "Second factors",
		reasonFlag(verb("reset USER", "Remove a lost second factor; a new invite is needed then", func(c *cobra.Command, args []string) error {
			if err := k.Authority.ResetFactor(c.Context(), k.by(), args[0], reason); err != nil {
				return err
			}
			return k.doneUser(c, args[0], "the second factor of %s is removed; `user invite %s` makes a new way in", args[0], args[0])
		}), &reason))
}

func (k *call) trainingNoun() *cobra.Command {
	var course, until string
	set := verb("set USER", "Record that a person's training is valid", func(c *cobra.Command, args []string) error {
		if course == "" || until == "" {
			return Usagef("--course and --until are required")
		}
		t, err := k.moment("until", until)
		if err != nil {
			return err
		}
		if err := k.Authority.SetTraining(c.Context(), k.by(), args[0], course, t); err != nil {
			return err
		}
		return k.doneUser(c, args[0], "the training of %s is valid until %s", args[0], day(t))
	})
	set.Flags().StringVar(&course, "course", "", "name of the course (required)")
	set.Flags().StringVar(&until, "until", "", "valid until: "+timeFormats+" (required)")
	return noun("training", "Training of people", set)
}

func (k *call) termsNoun() *cobra.Command {
	return noun("terms", "Terms of use", k.termsSet(), k.termsShow(), k.termsAccept())
}

func (k *call) termsSet() *cobra.Command {
	c := verb("set", "Make the text on standard input the terms for everyone", func(c *cobra.Command, args []string) error {
		text, err := k.readStdin("the text of the terms")
		if err != nil {
			return err
		}
		version, err := k.Authority.SetTerms(c.Context(), k.by(), text)
		if err != nil {
			return err
		}
		return k.done(map[string]string{"version": version}, "the terms are now version %s; everyone must accept them anew", version)
	})
	c.Example = "  ssh gate terms set < terms.txt"
	return c
}

func (k *call) termsShow() *cobra.Command {
	return verb("show", "Show the terms of use", func(c *cobra.Command, args []string) error {
		version, text, err := k.Authority.Terms(c.Context())
		if err != nil {
			return err
		}
		if k.json {
			return k.printJSON(map[string]string{"version": version, "text": text})
		}
		if version == "" {
			return k.done(nil, "There are no terms.")
		}
		return k.done(nil, "%s\n\nversion %s; accept with: terms accept %s", rawText(cleanLines(strings.TrimRight(text, "\n"))), version, shortVersion(version))
	})
}

// rawText is text that was cleaned already, line by line.
type rawText string

// minimumVersion is how many characters of a version must be typed to accept it.
const minimumVersion = 8

func shortVersion(version string) string {
	if len(version) > 12 {
		return version[:12]
	}
	return version
}

func (k *call) termsAccept() *cobra.Command {
	return verb("accept VERSION", "Accept the terms of use", func(c *cobra.Command, args []string) error {
		version, _, err := k.Authority.Terms(c.Context())
		if err != nil {
			return err
		}
		if version == "" {
			return notFound("there are no terms to accept")
		}
		if len(args[0]) < minimumVersion || !strings.HasPrefix(version, args[0]) {
			return notFound("version %q is not that of the present terms; see terms show", args[0])
		}
		if err := k.Authority.AcceptTerms(c.Context(), k.by(), version); err != nil {
			return err
		}
		return k.done(map[string]any{"version": version, "user": k.by().User, "at": k.now().Truncate(time.Second)}, "%s accepted the terms, version %s", k.by().User, version)
	})
}
