package nkv

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Mirrors, a subscription, writers and announcers, while everything between them and the daemon breaks: it is
// killed, stopped and started again, sometimes as after a reboot; a proxy cuts connections in the middle of a
// line and holds bytes back; the daemon remembers few deletions, so who lags has to compare. Now and then
// there is a quiet point: nothing breaks, writers pause, and then
//
//   - each mirror and the subscriber hold exactly the keyspace, revisions included,
//   - each writer finds what it was told: what was acknowledged is there, what was refused or not sent is
//     not, and what is unknown is one or the other,
//   - everything announced is there, with its newest value,
//   - a counter that all writers increment has counted each success, and no more besides than the
//     increments whose fate is unknown.
//
// In between, each cut of a mirror is held against its own account of what was told before.
//
// What happens is drawn from a seed, which is printed; NKV_CHAOS_SEED sets it. NKV_CHAOS_SECONDS says how long.
func TestChaos(t *testing.T) {
	seed := time.Now().UnixNano()
	if text := os.Getenv("NKV_CHAOS_SEED"); text != "" {
		seed, _ = strconv.ParseInt(text, 10, 64)
	}
	seconds := 8
	if text := os.Getenv("NKV_CHAOS_SECONDS"); text != "" {
		seconds, _ = strconv.Atoi(text)
	}
	t.Logf("NKV_CHAOS_SEED=%d", seed)
	newStorm(t, seed).run(time.Duration(seconds) * time.Second)
}

type storm struct {
	t         *testing.T
	random    *rand.Rand
	directory string
	daemon    *daemon
	proxy     *proxy
	direct    *Client      // past the proxy
	gate      sync.RWMutex // who acts holds it for reading

	writers     []*writer
	announcers  []*announcer
	mirrors     []*chaosMirror
	subscriber  *subscriber
	hasRebooted bool
	faults      map[string]int
	done        chan struct{}
	all         sync.WaitGroup
}

func newStorm(t *testing.T, seed int64) *storm {
	s := &storm{t: t, random: rand.New(rand.NewSource(seed)), directory: t.TempDir(), faults: make(map[string]int), done: make(chan struct{})}
	s.daemon = startDaemon(t, "--data-dir", s.directory+"/data", "--runtime-dir", s.directory+"/run",
		"--tombstones", "16", "--send-buffer", "4k", "--sync", "interval=50")
	s.proxy = newProxy(t, s.directory+"/proxy.sock", s.daemon.socket, seed)
	s.direct = newClient(t, s.daemon.socket)
	for number := 0; number < 3; number++ {
		w := &writer{name: fmt.Sprintf("w.%d", number), storm: s, client: newClient(t, s.proxy.path),
			random: rand.New(rand.NewSource(s.random.Int63())), known: make(map[string]*known)}
		s.writers = append(s.writers, w)
		s.play(w.act)
	}
	for number := 0; number < 2; number++ {
		a := &announcer{key: fmt.Sprintf("here.%d", number), client: newClient(t, s.proxy.path),
			random: rand.New(rand.NewSource(s.random.Int63()))}
		s.announcers = append(s.announcers, a)
		s.play(a.act)
	}
	shared := newClient(t, s.proxy.path)
	for _, client := range []*Client{shared, shared, newClient(t, s.proxy.path)} {
		m := &chaosMirror{witness: newWitness[Value](), random: rand.New(rand.NewSource(s.random.Int63()))}
		var err error
		m.mirror, err = NewMirror(context.Background(), client, "*", Handlers[Value]{Cut: m.take})
		check(t, err)
		s.mirrors = append(s.mirrors, m)
	}
	s.subscriber = &subscriber{entries: make(map[string]Event)}
	subscription := shared.Subscribe(context.Background(), "*", Cuts)
	s.all.Add(1)
	go func() {
		defer s.all.Done()
		for event := range subscription.Events() {
			s.subscriber.take(event)
		}
	}()
	t.Cleanup(func() { subscription.Close(); s.all.Wait() })
	return s
}

// play has somebody act until the end.
func (s *storm) play(act func()) {
	s.all.Add(1)
	go func() {
		defer s.all.Done()
		for {
			select {
			case <-s.done:
				return
			default:
			}
			s.gate.RLock()
			act()
			s.gate.RUnlock()
			// Somebody may want to shut the gate.
			time.Sleep(time.Duration(rand.Intn(2)) * time.Millisecond)
		}
	}()
}

func (s *storm) run(duration time.Duration) {
	var quietPoints int
	for start := time.Now(); time.Since(start) < duration; quietPoints++ {
		s.proxy.isCalm.Store(false)
		for faults := 1 + s.random.Intn(5); faults > 0; faults-- {
			time.Sleep(time.Duration(20+s.random.Intn(200)) * time.Millisecond)
			s.fault()
		}
		time.Sleep(time.Duration(20+s.random.Intn(200)) * time.Millisecond)
		s.quiet(time.Since(start) > duration)
		if s.t.Failed() {
			break
		}
	}
	close(s.done)
	resets, cuts, changes := 0, 0, 0
	for _, m := range s.mirrors {
		m.witness.mu.Lock()
		resets, cuts, changes = resets+m.witness.resets, cuts+m.witness.cuts, changes+len(m.witness.log)
		m.witness.mu.Unlock()
	}
	s.t.Logf("%d quiet points, %d connections cut, %v, mirrors: %d cuts, %d of them compared, %d changes; %s",
		quietPoints, s.proxy.cuts.Load(), s.faults, cuts, resets, changes, s.subscriber)
	// Otherwise nothing was shown.
	if s.proxy.cuts.Load() == 0 || resets <= len(s.mirrors) {
		s.t.Error("nothing was broken, or nobody was left behind")
	}
}

func (s *storm) fault() {
	name := []string{"kills", "kills", "kills", "stops", "reboots", "", "", ""}[s.random.Intn(8)]
	if name == "" {
		return
	}
	s.faults[name]++
	s.end(name == "kills" || name == "reboots" && s.random.Intn(2) == 0)
	if name == "reboots" {
		// What goes with the machine.
		check(s.t, os.RemoveAll(s.directory+"/run"))
		s.hasRebooted = true
	}
	time.Sleep(time.Duration(s.random.Intn([]int{60, 60, 600}[s.random.Intn(3)])) * time.Millisecond)
	check(s.t, s.daemon.run())
}

func (s *storm) end(isKilled bool) {
	signal := syscall.SIGTERM
	if isKilled {
		signal = syscall.SIGKILL
	}
	s.daemon.end(signal)
}

// quiet has everybody pause, and compares. Before that the daemon may be started again, so that whoever is to
// come back does so while nobody asks anything.
func (s *storm) quiet(isLast bool) {
	s.proxy.isCalm.Store(true)
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.random.Intn(2) == 0 {
		s.end(s.random.Intn(2) == 0)
		check(s.t, s.daemon.run())
	}
	ctx := patient(s.t)
	// Whoever has been cut off is forgotten, so nothing more of him is carried out.
	until(s.t, "connections are forgotten", func() bool {
		peers, err := s.direct.Clients(ctx)
		check(s.t, err)
		return int64(len(peers)) == s.proxy.live.Load()+1
	})
	until(s.t, "brief entries go", func() bool {
		keys, err := s.direct.Keys(ctx, "w.*.brief.*")
		check(s.t, err)
		return len(keys) == 0
	})
	for _, a := range s.announcers {
		if a.announcement == nil && !isLast {
			continue // after a restart of the daemon it is there for a while
		}
		until(s.t, fmt.Sprintf("%s is announced as %d", a.key, a.value), func() bool {
			entry, err := Get[int](ctx, s.direct, a.key)
			if a.announcement == nil {
				return errors.Is(err, ErrNotFound)
			}
			return err == nil && entry.Value == a.value
		})
	}
	for _, w := range s.writers {
		w.check(ctx, s.hasRebooted)
	}
	s.hasRebooted = false
	s.compareCounter(ctx)
	s.compareMirrors(ctx)
}

func (s *storm) compareCounter(ctx context.Context) {
	var successes, unknowns int
	for _, w := range s.writers {
		successes, unknowns = successes+w.successes, unknowns+w.unknowns
	}
	count, err := Get[int](ctx, s.direct, "counter")
	if !errors.Is(err, ErrNotFound) {
		check(s.t, err)
	}
	if count.Value < successes || count.Value > successes+unknowns {
		s.t.Errorf("%d counted of %d increments and %d unknown ones", count.Value, successes, unknowns)
	}
}

func (s *storm) compareMirrors(ctx context.Context) {
	list := func() string {
		entries, err := s.direct.List(ctx, "*")
		check(s.t, err)
		lines := make([]string, len(entries))
		for i, entry := range entries {
			lines[i] = fmt.Sprintf("%s@%d=%s", entry.Key, entry.Rev, brief(entry.Value))
		}
		return strings.Join(lines, "\n")
	}
	for number, m := range s.mirrors {
		until(s.t, fmt.Sprintf("mirror %d is the keyspace", number), func() bool { return list() == m.state(s.t) })
		m.witness.mu.Lock()
		if m.witness.wrong != "" {
			s.t.Errorf("mirror %d: %s", number, m.witness.wrong)
		}
		m.witness.mu.Unlock()
	}
	until(s.t, "the subscriber has the keyspace", func() bool { return list() == s.subscriber.state() })
}

func brief(value Value) string {
	text := value.String()
	if len(text) > 40 {
		text = fmt.Sprintf("%s… of %d", text[:40], len(text))
	}
	return text
}

// A chaosMirror is slow at times.
type chaosMirror struct {
	mirror  *Mirror[Value]
	witness *witness[Value]
	random  *rand.Rand
}

func (m *chaosMirror) take(cut Cut[Value]) {
	m.witness.take(cut)
	if m.random.Intn(100) == 0 {
		time.Sleep(time.Duration(m.random.Intn(500)) * time.Millisecond)
	}
}

// state shows what the mirror holds, if it has told all of it.
func (m *chaosMirror) state(t testing.TB) string {
	m.witness.mu.Lock()
	defer m.witness.mu.Unlock()
	var lines []string
	m.mirror.View(func(view *View[Value]) {
		if view.Position().Rev != m.witness.rev || len(m.witness.entries) != view.Len() {
			return
		}
		for _, key := range view.Keys("*") {
			value, rev, _ := view.Raw(key)
			if m.witness.entries[key] != value {
				t.Errorf("%s is %s and was told as %s", key, brief(value), brief(m.witness.entries[key]))
			}
			lines = append(lines, fmt.Sprintf("%s@%d=%s", key, rev, brief(value)))
		}
	})
	return strings.Join(lines, "\n")
}

// A subscriber makes a copy of the events alone.
type subscriber struct {
	mu      sync.Mutex
	entries map[string]Event
	told    int
	resets  int
}

func (s *subscriber) take(event Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told++
	switch event.Kind {
	case EventPut:
		s.entries[event.Key] = event
	case EventDelete:
		delete(s.entries, event.Key)
	case EventReset:
		s.resets++
		s.entries = make(map[string]Event)
	}
}

func (s *subscriber) state() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := View[Value]{entries: make(map[string]held[Value])}
	for key := range s.entries {
		all.entries[key] = held[Value]{}
	}
	var lines []string
	for _, key := range all.Keys("*") {
		lines = append(lines, fmt.Sprintf("%s@%d=%s", key, s.entries[key].Rev, brief(s.entries[key].Value)))
	}
	return strings.Join(lines, "\n")
}

func (s *subscriber) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("subscriber: %d events, %d resets", s.told, s.resets)
}

// A writer changes keys of its own in every way there is, and knows what must have come of it. Of each key it
// knows what was last acknowledged, and what may be there besides: whatever was reported with an unknown fate
// since the last quiet point. Such a request may be carried out late, after others of another connection.
type writer struct {
	name                string
	storm               *storm
	client              *Client
	random              *rand.Rand
	claim               *Claim
	generation          int
	known               map[string]*known
	successes, unknowns int
}

type known struct {
	value  Value // the zero Value: nothing
	rev    uint64
	maybes []Value
}

func (w *writer) act() {
	// Patience that is at times too short.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(5+w.random.Intn(1500))*time.Millisecond)
	defer cancel()
	key := fmt.Sprintf("%s.one.%d", w.name, w.random.Intn(14))
	value := w.value()
	terms := []PutOption{w.lifetime(key)}
	k := w.of(key)
	switch w.random.Intn(16) {
	case 0, 1, 2, 3:
		w.put(ctx, key, value, terms)
	case 4:
		if w.random.Intn(2) == 0 && k.value != (Value{}) {
			value = k.value
		}
		w.put(ctx, key, value, append(terms, IfChanged))
	case 5, 6:
		isCertain := len(k.maybes) == 0 && terms[0] == Durable
		_, err := w.put(ctx, key, value, append(terms, IfRev(k.rev)))
		if isCertain && errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnanswered) {
			w.storm.t.Errorf("%s has been at %d: %v", key, k.rev, err)
		}
	case 7, 8, 9:
		_, err := w.client.Delete(ctx, key)
		w.note(key, Value{}, 0, err)
	case 10:
		// It is no batch, so it may have been carried out in part.
		_, err := w.client.Delete(ctx, w.name+".one.*")
		for key := range w.known {
			if strings.Contains(key, ".one.") {
				w.note(key, Value{}, 0, err)
			}
		}
	case 11, 12:
		batch := new(Batch)
		for _, part := range []string{"a", "b", "c"} {
			batch.Put(w.name+".group."+part, value)
		}
		_, err := w.client.Commit(ctx, batch)
		for _, part := range []string{"a", "b", "c"} {
			w.note(w.name+".group."+part, value, 0, err)
		}
	case 13:
		w.client.Put(ctx, fmt.Sprintf("%s.brief.%d", w.name, w.random.Intn(3)), value, TTL(1+w.random.Intn(500))*TTL(time.Millisecond), IfChanged)
	case 14:
		w.claimOrNot(ctx)
	default:
		_, err := Update(ctx, w.client, "counter", func(count int, _ bool) (int, error) { return count + 1, nil })
		switch {
		case err == nil:
			w.successes++
		case errors.Is(err, ErrUnanswered):
			w.unknowns++
		}
	}
}

func (w *writer) claimOrNot(ctx context.Context) {
	if w.claim != nil {
		w.claim.Close()
		w.claim = nil
	} else if claim, err := w.client.Claim(ctx, w.name); err == nil {
		w.claim = claim
	}
}

func (w *writer) put(ctx context.Context, key string, value Value, terms []PutOption) (Written, error) {
	written, err := w.client.Put(ctx, key, value, terms...)
	w.note(key, value, written.Rev, err)
	return written, err
}

func (w *writer) note(key string, value Value, rev uint64, err error) {
	k := w.of(key)
	switch {
	case err == nil:
		k.value, k.rev = value, rev
	case errors.Is(err, ErrUnanswered):
		k.maybes = append(k.maybes, value)
	}
}

func (w *writer) of(key string) *known {
	if w.known[key] == nil {
		w.known[key] = new(known)
	}
	return w.known[key]
}

func (w *writer) value() Value {
	w.generation++
	if w.random.Intn(12) == 0 {
		return Value{text: strconv.Itoa(w.generation), isBytes: true}
	}
	size := []int{100, 100, 100, 4 << 10, 100 << 10}[[]int{0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 4}[w.random.Intn(15)]]
	value, _ := Of(fmt.Sprintf("%d %s", w.generation, strings.Repeat("x", w.random.Intn(size))))
	return value
}

func (w *writer) lifetime(key string) Lifetime {
	if number, _ := strconv.Atoi(key[strings.LastIndexByte(key, '.')+1:]); number%2 == 0 {
		return Boot
	}
	return Durable
}

// check holds what is there against what is known. After a reboot entries may be gone that were not durable.
func (w *writer) check(ctx context.Context, hasRebooted bool) {
	entries, err := w.storm.direct.List(ctx, w.name+".*")
	check(w.storm.t, err)
	found := make(map[string]Entry[Value])
	for _, entry := range entries {
		found[entry.Key] = entry
	}
	for key, k := range w.known {
		have := found[key]
		delete(found, key)
		isRight := have.Value == k.value ||
			hasRebooted && have.Value == (Value{}) && strings.Contains(key, ".one.") && w.lifetime(key) == Boot
		for _, maybe := range k.maybes {
			isRight = isRight || maybe == have.Value
		}
		if !isRight {
			w.storm.t.Errorf("%s holds %s, last acknowledged was %s, and %d are unknown", key, brief(have.Value), brief(k.value), len(k.maybes))
		}
		*k = known{value: have.Value, rev: have.Rev}
	}
	for key := range found {
		w.storm.t.Errorf("nobody has put %s", key)
	}
}

// An announcer keeps an entry up, and gives it other values.
type announcer struct {
	key          string
	client       *Client
	random       *rand.Rand
	announcement *Announcement
	value        int
}

func (a *announcer) act() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(5+a.random.Intn(500))*time.Millisecond)
	defer cancel()
	switch {
	case a.announcement == nil:
		a.value++
		// Where it fails it is taken back.
		a.announcement, _ = a.client.Announce(ctx, a.key, a.value)
	case a.random.Intn(20) == 0:
		a.announcement.Close()
		a.announcement = nil
	default:
		a.value++
		a.announcement.Set(ctx, a.value) // also where it fails, it is told in the end
	}
}

// A proxy forwards connections to the daemon, and breaks them: each direction draws how many bytes it lets
// pass, wherever in a line that ends. After some cuts nobody can connect for a while.
type proxy struct {
	path, daemon string
	seed         int64
	isCalm       atomic.Bool
	live         atomic.Int64
	cuts         atomic.Int64
	outage       sync.Mutex
	all          sync.WaitGroup
}

func newProxy(t *testing.T, path, daemon string, seed int64) *proxy {
	listener, err := net.Listen("unix", path)
	check(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	p := &proxy{path: path, daemon: daemon, seed: seed}
	p.isCalm.Store(true)
	p.all.Add(1)
	go func() {
		defer p.all.Done()
		for number := int64(0); ; number++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.forward(client, number)
		}
	}()
	t.Cleanup(func() { listener.Close(); p.isCalm.Store(true); p.all.Wait() })
	return p
}

func (p *proxy) forward(client net.Conn, number int64) {
	daemon, err := net.Dial("unix", p.daemon)
	if err != nil {
		client.Close()
		return
	}
	p.live.Add(1)
	client.(*net.UnixConn).SetWriteBuffer(4 << 10)
	var both sync.WaitGroup
	both.Add(2)
	for direction, ends := range [][2]net.Conn{{client, daemon}, {daemon, client}} {
		random := rand.New(rand.NewSource(p.seed + 2*number + int64(direction)))
		from, to := ends[0], ends[1]
		go func() {
			defer both.Done()
			p.pump(from, to, random)
			// What has been written to either side can still be read there.
			for _, end := range []net.Conn{from, to} {
				end.(*net.UnixConn).CloseWrite()
				end.(*net.UnixConn).CloseRead()
			}
		}()
	}
	p.all.Add(1)
	go func() {
		defer p.all.Done()
		both.Wait()
		client.Close()
		daemon.Close()
		p.live.Add(-1)
	}()
}

func (p *proxy) pump(from, to net.Conn, random *rand.Rand) {
	// Of any magnitude: within the greeting, within the first request or its answer, after many.
	magnitude := 1 << (7 + random.Intn(12))
	left := magnitude + random.Intn(magnitude)
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer[:1+random.Intn(len(buffer))])
		if n == 0 || err != nil {
			return
		}
		isCalm := p.isCalm.Load()
		if !isCalm && random.Intn(200) == 0 {
			time.Sleep(time.Duration(random.Intn(60)) * time.Millisecond)
		}
		isCut := !isCalm && n > left
		if isCut {
			n = left
		}
		if !isCalm {
			left -= n
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		if isCut {
			p.cuts.Add(1)
			if random.Intn(5) == 0 {
				p.pause(time.Duration(random.Intn(500)) * time.Millisecond)
			}
			return
		}
	}
}

// pause lets nobody connect for so long.
func (p *proxy) pause(duration time.Duration) {
	if !p.outage.TryLock() {
		return
	}
	defer p.outage.Unlock()
	os.Rename(p.path, p.path+".away")
	for end := time.Now().Add(duration); time.Now().Before(end) && !p.isCalm.Load(); {
		time.Sleep(2 * time.Millisecond)
	}
	os.Rename(p.path+".away", p.path)
}
