package nkv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

const defaultSocket = "/run/nkv.sock"

// An address is where a daemon listens, as [net.Dial] takes it.
type address struct{ network, place string }

// parseAddress reads a path (anything with a /, or unix:PATH), HOST:PORT, tcp:HOST:PORT or a port on
// localhost. No text at all stands for $NKV_ADDRESS, or else for the first default place that there is.
func parseAddress(text string) (address, error) {
	if text == "" {
		if text = os.Getenv("NKV_ADDRESS"); text == "" {
			return address{"unix", defaultPath(os.Geteuid(), os.Getenv("XDG_RUNTIME_DIR"))}, nil
		}
	}
	if strings.HasPrefix(text, "unix:") {
		if text == "unix:" {
			return address{}, badAddress("there is no path after unix:")
		}
		return address{"unix", text[len("unix:"):]}, nil
	}
	if !strings.HasPrefix(text, "tcp:") && strings.Contains(text, "/") {
		return address{"unix", text}, nil
	}
	return parseTCP(strings.TrimPrefix(text, "tcp:"))
}

func parseTCP(text string) (address, error) {
	host, port := "localhost", text
	if colon := strings.LastIndexByte(text, ':'); colon >= 0 {
		host, port = text[:colon], text[colon+1:]
	} else if strings.Trim(text, "0123456789") != "" || text == "" {
		return address{}, badAddress("%q: a path has a / (or unix: before it), TCP is HOST:PORT or a port", text)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return address{}, badAddress("%q is no port: a number up to 65535 is needed", port)
	}
	place := host + ":" + port
	isHost := host != "" && strings.IndexFunc(host, func(r rune) bool {
		return r == '/' || unicode.IsSpace(r) || unicode.IsControl(r)
	}) < 0
	if strings.ContainsAny(host, ":[]") {
		parsed, err := netip.ParseAddrPort(place)
		isHost = err == nil && parsed.Addr().Is6()
	}
	if !isHost {
		return address{}, badAddress("%q is no host: an IPv6 address stands in brackets", host)
	}
	return address{"tcp", place}, nil
}

func badAddress(format string, arguments ...any) error {
	return because(ErrAddress, fmt.Errorf(format, arguments...))
}

// defaultPath gives the first of a user's own places and /run/nkv.sock at which there is a socket, and
// the first of all where there is none.
func defaultPath(uid int, runtimeDirectory string) string {
	if uid <= 0 {
		return defaultSocket
	}
	var places []string
	if filepath.IsAbs(runtimeDirectory) {
		places = append(places, filepath.Join(runtimeDirectory, "nkv.sock"))
	}
	places = append(places, fmt.Sprintf("/tmp/nkv-%d/nkv.sock", uid), defaultSocket)
	for _, place := range places {
		if isSocket(place, uid) {
			return place
		}
	}
	return places[0]
}

// isSocket tells whether there is a socket that may be trusted: below /tmp anyone may make a directory.
func isSocket(path string, uid int) bool {
	if strings.HasPrefix(path, "/tmp/") {
		directory, err := os.Lstat(filepath.Dir(path))
		if err != nil || !directory.IsDir() || !isOwnedBy(directory, uid) {
			return false
		}
	}
	file, err := os.Stat(path)
	return err == nil && file.Mode()&os.ModeSocket != 0
}

func (a address) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, a.network, a.place)
}

func (a address) String() string { return a.place }
