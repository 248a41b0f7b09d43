package config

import "path/filepath"

func (r *Recording) setSecondDefaults(lines map[string]int) {
	if lines["recording.max_backlog"] == 0 {
		r.MaxBacklog = 1 << 30
	}
	if lines["recording.scrub_rate"] == 0 {
		r.ScrubRate = 32 << 20
	}
}

func (r *Recording) checkSecond(fault func(string, string, ...any)) {
	if r.MaxBacklog < 1<<20 {
		fault("recording.max_backlog", "%v is less than 1MiB; one recording that waits would keep everyone out", r.MaxBacklog)
	}
	if r.ScrubRate < 64<<10 {
		fault("recording.scrub_rate", "%v a second is less than 64KiB; a week would not do for the check", r.ScrubRate)
	}
	for _, dir := range []string{r.Dir, r.Journal} {
		if r.SecondDir != "" && filepath.Clean(dir) == filepath.Clean(r.SecondDir) {
			fault("recording.second_dir", "%s is no second place; name a folder on another disk", r.SecondDir)
		}
	}
}
