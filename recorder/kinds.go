package recorder

import (
	"encoding/binary"
	"errors"
)

// EncodeExit is the data of an exit frame: the status, or, when signal is not
// empty, 's' and the signal's name without SIG (RFC 4254 section 6.10).
func EncodeExit(status uint32, signal string) []byte {
	if signal != "" {
		return append([]byte{'s'}, signal...)
	}
	return binary.BigEndian.AppendUint32(nil, status)
}

// DecodeExit reads the data of an exit frame. A leading 's' always means a
// signal: as a status those bytes would be above 0x73000000, which no exit
// status reaches (POSIX keeps eight bits).
func DecodeExit(data []byte) (status uint32, signal string, err error) {
	if len(data) > 1 && data[0] == 's' {
		return 0, string(data[1:]), nil
	}
	if len(data) != 4 {
		return 0, "", errors.New("an exit frame has four bytes or a signal")
	}
	return binary.BigEndian.Uint32(data), "", nil
}

// Window is the content of a resize frame; Width and Height are in pixels.
type Window struct {
	Columns, Rows, Width, Height uint32
}

// EncodeResize is the data of a resize frame.
func EncodeResize(w Window) []byte {
	data := make([]byte, 0, 16)
	for _, v := range []uint32{w.Columns, w.Rows, w.Width, w.Height} {
		data = binary.BigEndian.AppendUint32(data, v)
	}
	return data
}

// DecodeResize reads the data of a resize frame.
func DecodeResize(data []byte) (Window, error) {
	if len(data) != 16 {
		return Window{}, errors.New("a resize frame has sixteen bytes")
	}
	return Window{binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]),
		binary.BigEndian.Uint32(data[8:]), binary.BigEndian.Uint32(data[12:])}, nil
}
