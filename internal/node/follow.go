package node

import "sallyport/bastion/console"

// follow gives the console a live view out of the recorder's memory.
func (n *Node) follow(session string) (console.View, error) {
	f, err := n.Recorder.Follow(session)
	if err != nil {
		return console.View{}, err
	}
	return console.View{Columns: f.Columns, Rows: f.Rows, Snapshot: f.Snapshot, Next: f.Next, Close: f.Close}, nil
}
