// Package screen is a small model of a terminal: it reads the bytes that a
// program writes and knows what a person would see. Keyframes of recordings,
// the text export of a session and, later, the idle lock and the capture of
// commands rest on it.
//
// The bytes come from people and machines that are not trusted, so the model is
// bounded in three ways whatever they are:
//
//   - Memory: a Screen stays under 2 MiB. It has at most [MaxCells] cells, no
//     scrollback, and every string and list in it has a limit.
//   - Work: no 1 KiB of input costs more than 5 ms. Counts are clamped to the
//     screen, and erasing a row is a note in the row rather than a loop.
//   - It never panics and never fails: bytes that mean nothing are dropped.
//
// What it shows does not depend on how the input is cut into writes.
//
// It follows xterm with UTF-8 where terminals differ, and the newer terminals in
// the width of emoji: a sequence joined by U+200D and a skin tone are one
// character of two columns, U+FE0F makes a symbol two columns wide. An invalid
// byte is U+FFFD.
//
// It refuses, on purpose: to answer queries (a model has no keyboard), to draw
// images (sixel and the like are swallowed), to reflow on a resize, to keep a
// scrollback or the other screen's content after the alternate screen was left,
// to take U+009C or any other C1 character for a control, left and right margins,
// rectangles, protected cells, and VT52 mode. Bidirectional controls and other
// invisible format characters are left out of the cells.
package screen
