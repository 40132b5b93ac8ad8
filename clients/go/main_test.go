package nkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What is waited for comes sooner, or it does not come.
const patience = 30 * time.Second

// TestMain starts a daemon for the examples, and sees to it that no goroutine is left in the end.
func TestMain(m *testing.M) {
	binary, err := findDaemon()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	directory, err := os.MkdirTemp("", "nkv-go-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := &daemon{binary: binary, socket: filepath.Join(directory, "nkv.sock"), options: []string{"--in-memory"}}
	code := 1
	if err := d.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		os.Setenv("NKV_ADDRESS", d.socket)
		code = m.Run()
		if left := leftGoroutines(); left != "" && code == 0 {
			fmt.Fprintf(os.Stderr, "these goroutines are left:\n%s\n", left)
			code = 1
		}
		d.end(syscall.SIGTERM)
	}
	os.RemoveAll(directory)
	os.Exit(code)
}

// leftGoroutines waits until no goroutine of a client or connection is left, and tells which are.
func leftGoroutines() string {
	var left string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = ""
		for _, stack := range strings.Split(string(stacks), "\n\n")[1:] {
			if strings.Contains(stack, "nkv.") && !strings.Contains(stack, "testing.") {
				left += stack + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
	}
	return left
}

// findDaemon gives $NKV_SERVER or what was built last in this repository.
func findDaemon() (string, error) {
	if binary := os.Getenv("NKV_SERVER"); binary != "" {
		return binary, nil
	}
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = "../../target"
	}
	var newest string
	var built time.Time
	for _, profile := range []string{"release", "debug"} {
		binary := filepath.Join(target, profile, "nkv-server")
		if file, err := os.Stat(binary); err == nil && file.ModTime().After(built) {
			newest, built = binary, file.ModTime()
		}
	}
	if newest == "" {
		return "", errors.New("these tests need a daemon: `cargo build --bin nkv-server`, or set NKV_SERVER")
	}
	return filepath.Abs(newest)
}

// A daemon is a process, or none at the moment.
type daemon struct {
	binary, socket string
	options        []string
	process        *exec.Cmd
}

// startDaemon starts one for a test, in a directory of its own, which is the address's.
func startDaemon(t testing.TB, options ...string) *daemon {
	binary, err := findDaemon()
	check(t, err)
	d := &daemon{binary: binary, socket: filepath.Join(t.TempDir(), "nkv.sock"), options: options}
	check(t, d.run())
	t.Cleanup(func() { d.end(syscall.SIGKILL) })
	return d
}

func (d *daemon) run() error {
	os.Remove(d.socket)
	d.process = exec.Command(d.binary, append(append([]string(nil), d.options...), d.socket)...)
	d.process.Env = append(os.Environ(), "NKV_LOG=warn")
	d.process.Stderr = os.Stderr
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stream, err := net.Dial("unix", d.socket)
		if err == nil {
			return stream.Close()
		}
		if time.Now().After(end) {
			d.end(syscall.SIGKILL)
			return fmt.Errorf("the daemon does not listen: %w", err)
		}
	}
}

func (d *daemon) end(signal syscall.Signal) {
	if d.process != nil {
		d.process.Process.Signal(signal)
		d.process.Wait()
		d.process = nil
	}
}

// newClient makes a client that is closed with the test.
func newClient(t testing.TB, address string, options ...ClientOption) *Client {
	client, err := New(address, append([]ClientOption{WithPauses(time.Millisecond, 20*time.Millisecond)}, options...)...)
	check(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

// patient gives a context that ends when there is no hope any more.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// until waits for something to be so.
func until(t testing.TB, what string, isSo func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !isSo(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err error, wanted ...error) {
	t.Helper()
	for _, want := range wanted {
		if !errors.Is(err, want) {
			t.Fatalf("the error is %v, and should be %v", err, want)
		}
	}
}

func equal[T comparable](t testing.TB, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

const (
	stopSignal     = syscall.SIGSTOP
	continueSignal = syscall.SIGCONT
)
