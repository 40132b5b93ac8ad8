package nkv

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Beside Redis, with a client that is as small as one can be: go-redis is no part of the standard library. It has one
// connection for each goroutine, which is what go-redis' pool comes to, and does no more than to write a
// command and read its answer. Run with `go test -run XXX -bench .`; without redis-server its half is skipped.

func BenchmarkPut(b *testing.B) {
	for _, goroutines := range []int{1, 50} {
		b.Run(fmt.Sprintf("nkv/%d", goroutines), func(b *testing.B) {
			client := newClient(b, startDaemon(b, "--in-memory").socket)
			share(b, goroutines, func(number int) func() {
				key := fmt.Sprintf("bench.%d", number)
				return func() { check(b, err2(client.Put(context.Background(), key, "0123456789012345"))) }
			})
		})
		b.Run(fmt.Sprintf("redis/%d", goroutines), func(b *testing.B) {
			socket := startRedis(b)
			share(b, goroutines, func(number int) func() {
				r := dialRedis(b, socket)
				key := fmt.Sprintf("bench.%d", number)
				return func() { r.ask("SET", key, "0123456789012345") }
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, goroutines := range []int{1, 50} {
		b.Run(fmt.Sprintf("nkv/%d", goroutines), func(b *testing.B) {
			client := newClient(b, startDaemon(b, "--in-memory").socket)
			check(b, err2(client.Put(context.Background(), "bench", "0123456789012345")))
			share(b, goroutines, func(int) func() {
				return func() { check(b, err2(Get[string](context.Background(), client, "bench"))) }
			})
		})
		b.Run(fmt.Sprintf("redis/%d", goroutines), func(b *testing.B) {
			socket := startRedis(b)
			dialRedis(b, socket).ask("SET", "bench", "0123456789012345")
			share(b, goroutines, func(int) func() {
				r := dialRedis(b, socket)
				return func() { r.ask("GET", "bench") }
			})
		})
	}
}

// How long it takes from a put until another client's mirror has told it.
func BenchmarkNotice(b *testing.B) {
	b.Run("nkv", func(b *testing.B) {
		d := startDaemon(b, "--in-memory")
		client, other := newClient(b, d.socket), newClient(b, d.socket)
		told := make(chan struct{}, 1)
		mirror, err := NewMirror(context.Background(), other, "bench", Handlers[int]{
			Modified: func(string, int, int) { told <- struct{}{} },
		})
		check(b, err)
		check(b, err2(client.Put(context.Background(), "bench", -1)))
		check(b, mirror.WaitSynced(patient(b)))
		until(b, "it is there", func() bool { _, ok := mirror.Get("bench"); return ok })
		b.ResetTimer()
		for i := 0; i < b.N; i++ {
			check(b, err2(client.Put(context.Background(), "bench", i)))
			<-told
		}
	})
	b.Run("redis", func(b *testing.B) {
		socket := startRedis(b)
		client, other := dialRedis(b, socket), dialRedis(b, socket)
		other.ask("SUBSCRIBE", "bench")
		told := make(chan struct{}, 1)
		go func() {
			for other.receive() == nil {
				told <- struct{}{}
			}
		}()
		b.ResetTimer()
		for i := 0; i < b.N; i++ {
			client.ask("PUBLISH", "bench", strconv.Itoa(i))
			<-told
		}
	})
}

// share has so many goroutines do it b.N times together.
func share(b *testing.B, goroutines int, prepare func(number int) func()) {
	var done sync.WaitGroup
	var count atomic.Int64
	start := make(chan struct{})
	for number := 0; number < goroutines; number++ {
		done.Add(1)
		go func(do func()) {
			defer done.Done()
			<-start
			for count.Add(1) <= int64(b.N) {
				do()
			}
		}(prepare(number))
	}
	b.ResetTimer()
	close(start)
	done.Wait()
}

func startRedis(b *testing.B) (socket string) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		b.Skip("there is no redis-server to compare with")
	}
	socket = filepath.Join(b.TempDir(), "redis.sock")
	process := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(b, process.Start())
	b.Cleanup(func() { process.Process.Kill(); process.Wait() })
	until(b, "it listens", func() bool {
		stream, err := net.DialTimeout("unix", socket, time.Second)
		if err == nil {
			stream.Close()
		}
		return err == nil
	})
	return socket
}

type redis struct {
	b      *testing.B
	stream net.Conn
	lines  *bufio.Reader
	line   []byte
}

func dialRedis(b *testing.B, socket string) *redis {
	stream, err := net.Dial("unix", socket)
	check(b, err)
	b.Cleanup(func() { stream.Close() })
	return &redis{b: b, stream: stream, lines: bufio.NewReader(stream)}
}

func (r *redis) ask(words ...string) {
	r.line = append(strconv.AppendInt(append(r.line[:0], '*'), int64(len(words)), 10), "\r\n"...)
	for _, word := range words {
		r.line = append(strconv.AppendInt(append(r.line, '$'), int64(len(word)), 10), "\r\n"...)
		r.line = append(append(r.line, word...), "\r\n"...)
	}
	_, err := r.stream.Write(r.line)
	check(r.b, err)
	check(r.b, r.receive())
}

// receive reads an answer, of which nothing is kept.
func (r *redis) receive() error {
	line, err := r.lines.ReadString('\n')
	if err != nil {
		return err
	}
	count, _ := strconv.Atoi(line[1 : len(line)-2])
	switch line[0] {
	case '$':
		_, err = r.lines.Discard(count + 2)
	case '*':
		for ; count > 0 && err == nil; count-- {
			err = r.receive()
		}
	case '-':
		r.b.Error(line)
	}
	return err
}
