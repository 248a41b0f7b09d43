// Package journal is the write-ahead log of a node: what happens in any
// session, and every event, is durable here before anybody is shown it.
//
// A caller opens one Stream for a session (or for the node's events), appends
// frames, and delivers their bytes once Durable has reached the position that
// Append returned. When the frames rest elsewhere (a recording, the ledger) it
// calls Release, and the room is used again. After a crash, Open hands back
// what was not released, still sealed.
//
// One goroutine writes. It takes whatever has gathered from all streams, writes
// it with one call, and makes it durable with one fdatasync; meanwhile the next
// batch gathers. So the slower the disk, the larger the batches, and the cost
// of a commit is shared by all. Short chunks go first, and long ones by turns,
// so that a keystroke does not wait behind a file transfer.
//
// # On the disk
//
// Files have a fixed size, are filled with zeroes before they are used (a
// commit then changes no metadata of the file system) and are used again when
// all in them is released, oldest first. All integers are big endian. A file
// is a row of blocks of 4,096 bytes; no block is written twice, so that a torn
// write can only harm what nobody was told was kept.
//
//	block 0          file header
//	block 1 ...      batches, each beginning on a block, the rest of its last block zero
//	last block       is left for the batch that ends a full file
//
//	batch    crc32c u32 | "SJB\x01" | length u32 | frames u32 | number u64 | µs since 1970 u64 | frames
//	frame    crc32c u32 | length u32 | stream u32 | type u8 | class u8 | 0 u16 | sequence u64 | body
//
// Each crc32c covers what follows it in the header (and the body of a frame),
// and is combined by exclusive or with the first four bytes of the file's
// random id: what an earlier use left in the file never counts. Types of frames:
//
//	'd' data      sealed: kind u8 | µs u64 | data, then the tag of AES-256-GCM
//	'o' opening   id [16] | chain [16] | classes u8 | name u8 + bytes | public u32 + bytes
//	'r' release   no body: all of the stream up to this sequence rests elsewhere
//	'e' end       id [16] of the next file, or zero after an orderly end
//
// A stream's first frame in each file has an opening before it, so that every
// file can be read by itself. Data is sealed under
// HKDF-SHA256(key of the class, salt = id of the stream), the nonce is the
// sequence, the associated data is the frame's header (with a crc of zero) and
// the stream's chain. Chain 0 is the first half of SHA-256 over the opening's
// constant parts; chain n is the tag of frame n, which covers header, ciphertext
// and the chain before. So whoever has the key finds every change, and if a
// place is lost, what follows can still be opened. A stream has up to
// eight keys (classes), so that typed keys can be under a stricter one.
//
// docs/format-journal.md says the same byte by byte.
//
// # What it refuses
//
// It never drops a frame: Append blocks instead, and a commit that takes longer
// than FailAfter fails the journal. A failed write or fdatasync is final and
// never retried, because the kernel may have thrown the pages away. It never
// writes a frame in clear. It does not open what was sealed, but for a caller
// who brings the keys (Opener). It does not start over a damaged place unless
// it is told to (Options.Damaged).
package journal
