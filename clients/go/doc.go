// Package nkv is a client for the nkv daemon, which keeps a hierarchical, persistent keyspace and tells
// subscribers what changes.
//
// A [Client] stands for the daemon. It connects when something is asked and again when the connection is
// lost. All goroutines of a program may share one:
//
//	client, err := nkv.New("") // $NKV_ADDRESS, else /run/nkv.sock
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	_, err = client.Put(ctx, "net.eth0.mtu", 1500)
//	mtu, err := nkv.Get[int](ctx, client, "net.eth0.mtu")
//
// A [Mirror] is a copy of a part of the keyspace that keeps itself up to date and tells what is different. A
// [Subscription] tells the events themselves. [Client.Announce] keeps an entry there for as long as
// the program has a connection.
//
// Errors are to be asked with [errors.Is]: for the daemon's codes, as [ErrNotFound] and [ErrConflict], and for
// what became of a request, as [ErrUnanswered].
//
// docs/go.md is the guide.
package nkv
