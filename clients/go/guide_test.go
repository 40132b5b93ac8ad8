package nkv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const guide = "../../docs/go.md"

// blocks gives the Go code of the guide.
func blocks(t *testing.T) []string {
	text, err := os.ReadFile(guide)
	check(t, err)
	var all []string
	for _, rest := range strings.Split(string(text), "```go\n")[1:] {
		code, _, isClosed := strings.Cut(rest, "```\n")
		equal(t, isClosed, true)
		all = append(all, code)
	}
	return all
}

// Each piece of code in the guide stands in an example, which is run, or is a program of its own.
func TestTheGuidesCodeIsRun(t *testing.T) {
	examples, err := os.ReadFile("example_test.go")
	check(t, err)
	flat := unindented(string(examples))
	all := blocks(t)
	if len(all) < 10 {
		t.Fatalf("there are but %d pieces of code", len(all))
	}
	for _, code := range all {
		if !strings.HasPrefix(code, "package main") && !strings.Contains(flat, unindented(code)) {
			t.Errorf("no example has\n%s", code)
		}
	}
}

func unindented(code string) string {
	lines := strings.Split(code, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

// The guide's program is run in a module of its own, which uses this one as the guide says.
func TestTheGuidesProgramRuns(t *testing.T) {
	var program string
	for _, code := range blocks(t) {
		if strings.HasPrefix(code, "package main") {
			program = code
		}
	}
	directory := t.TempDir()
	here, err := filepath.Abs(".")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(directory, "main.go"), []byte(program), 0o666))
	for _, command := range [][]string{
		{"go", "mod", "init", "thermostat"},
		{"go", "mod", "edit", "-require=nkv@v0.0.0", "-replace=nkv=" + here},
		{"go", "run", "."},
	} {
		process := exec.Command(command[0], command[1:]...)
		process.Dir = directory
		process.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		output, err := process.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", command, err, output)
		}
		if command[1] == "run" {
			equal(t, string(output), "config.web.port is 80\nconfig.web.port was 80 and is 443\n")
		}
	}
}
