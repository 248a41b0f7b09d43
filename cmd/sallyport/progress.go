package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// progressBar shows on a terminal how far long work has come; elsewhere it shows nothing.
type progressBar struct {
	out   io.Writer // nil: nothing is shown
	shown int64     // percent, -1 before the first
}

func newProgressBar(out io.Writer) *progressBar {
	if f, ok := out.(*os.File); !ok || !onTerminal(f) {
		out = nil
	}
	return &progressBar{out: out, shown: -1}
}

const barWidth = 40

// show draws the bar when it would look different; done and total are bytes.
func (b *progressBar) show(done, total int64) {
	if b.out == nil || total <= 0 {
		return
	}
	percent := min(done*100/total, 100)
	if percent == b.shown {
		return
	}
	b.shown = percent
	full := int(percent) * barWidth / 100
	fmt.Fprintf(b.out, "\r[%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(" ", barWidth-full), percent)
}

// clear takes the bar away again.
func (b *progressBar) clear() {
	if b.out != nil && b.shown >= 0 {
		fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", barWidth+8))
	}
}
