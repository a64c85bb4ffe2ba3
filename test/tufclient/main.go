// Command tufclient lets the public TUF conformance suite
// (theupdateframework/tuf-conformance) drive the client that a device runs:
// the same ota.Store, ota.Repo and download.Downloader, without what Tandem asks of
// a release beyond TUF. README.md beside it says how to run the suite.
//
//	tufclient --metadata-dir DIR init TRUSTED_ROOT
//	tufclient --metadata-dir DIR --metadata-url URL refresh
//	tufclient --metadata-dir DIR --metadata-url URL --target-name NAME...
//	          --target-base-url URL --target-dir DIR download
//
// It ends with 0 after success and 1 after anything else.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"tandem/internal/fsys"
	"tandem/ota"
	"tandem/ota/download"
	"tandem/packaging/trust"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tufclient:", err)
		os.Exit(1)
	}
}

// arguments are what the suite says.
type arguments struct {
	metadataDir, metadataURL string
	targets                  []string
	targetURL, targetDir     string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var a arguments
	flags := flag.NewFlagSet("tufclient", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&a.metadataDir, "metadata-dir", "", "where trusted metadata is shown")
	flags.StringVar(&a.metadataURL, "metadata-url", "", "where the repository's metadata is")
	flags.Func("target-name", "the target to download; may be repeated", func(s string) error {
		a.targets = append(a.targets, s)
		return nil
	})
	flags.StringVar(&a.targetURL, "target-base-url", "", "where the repository's targets are")
	flags.StringVar(&a.targetDir, "target-dir", "", "where targets go")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if a.metadataDir == "" {
		return errors.New("no --metadata-dir")
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(logrus.DebugLevel)
	switch command := flags.Arg(0); {
	case command == "init" && flags.NArg() == 2:
		return initialize(a, flags.Arg(1))
	case command == "refresh" && flags.NArg() == 1:
		a.targets = nil
		return update(ctx, a, log)
	case command == "download" && flags.NArg() == 1 && len(a.targets) > 0:
		return update(ctx, a, log)
	}
	return fmt.Errorf("%q: expected init TRUSTED_ROOT, refresh, or download with --target-name", flags.Args())
}

// The device's state lies below the directory in which the suite looks for
// metadata, and is copied from there: a Store keeps each root, under another name.
const (
	stateDir    = "state"
	provisioned = "provisioned.json"
)

func initialize(a arguments, root string) error {
	data, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	state := filepath.Join(a.metadataDir, stateDir)
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(state, provisioned), data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.metadataDir, "root.json"), data, 0o644)
}

// update refreshes the metadata, then downloads the targets that a names.
func update(ctx context.Context, a arguments, log *logrus.Logger) (err error) {
	dir := filepath.Join(a.metadataDir, stateDir)
	data, err := os.ReadFile(filepath.Join(dir, provisioned))
	if err != nil {
		return err
	}
	root, err := trust.ParseRoot(data)
	if err != nil {
		return err
	}
	state, err := fsys.OpenOS(dir)
	if err != nil {
		return err
	}
	defer state.Close()
	repository, ok := strings.CutSuffix(strings.TrimSuffix(a.metadataURL, "/"), "/metadata")
	if !ok {
		return fmt.Errorf("--metadata-url %s: expected one that ends in /metadata, as in each repository of ours", a.metadataURL)
	}
	now, err := systemTime(ctx)
	if err != nil {
		return err
	}
	store := ota.OpenStore(state, root, log)
	client := ota.NewClient(ota.ClientOptions{UserAgent: "tandem-tufclient", Timeout: 10 * time.Second})
	defer client.CloseIdleConnections()
	downloads, err := download.New(download.Options{FS: state, Client: client, Log: log, Attempts: 1})
	if err != nil {
		return err
	}
	repo, err := ota.NewRepo(ota.RepoOptions{
		URL: repository, Client: client, Store: store, Downloads: downloads, Now: func() time.Time { return now }, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, show(store, a.metadataDir)) }()
	trusted, err := repo.Refresh(ctx)
	if err != nil {
		return err
	}
	tree := repo.Tree(ctx, trusted)
	defer func() { err = errors.Join(err, showDelegated(store, a.metadataDir, tree.Roles())) }()
	for _, name := range a.targets {
		found, err := tree.Find(name)
		if err != nil {
			return err
		}
		t := wanted{arguments: a, name: name, target: found.Target, hashed: trusted.Root.Signed.ConsistentSnapshot}
		if err := t.get(ctx, downloads); err != nil {
			return fmt.Errorf("target %q: %w", name, err)
		}
	}
	return nil
}

// systemTime asks another program for the time: the suite changes it with
// faketime, which a Go program does not notice.
func systemTime(ctx context.Context) (time.Time, error) {
	out, err := exec.CommandContext(ctx, "date", "+%s").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("date: %w", err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("date: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// showDelegated copies the metadata of delegated roles to where the suite looks.
func showDelegated(store *ota.Store, dir string, roles []string) error {
	for _, role := range roles {
		if err := os.WriteFile(filepath.Join(dir, url.PathEscape(role)+".json"), store.Document(role), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// show copies what is trusted at the top level to where the suite looks.
func show(store *ota.Store, dir string) error {
	for role, data := range map[string][]byte{
		metadata.ROOT:      store.Root().Bytes(),
		metadata.TIMESTAMP: store.Document(metadata.TIMESTAMP),
		metadata.SNAPSHOT:  store.Document(metadata.SNAPSHOT),
		metadata.TARGETS:   store.Document(metadata.TARGETS),
	} {
		file := filepath.Join(dir, role+".json")
		if data == nil {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			continue
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// wanted is one target to get.
type wanted struct {
	arguments
	name   string
	target *metadata.TargetFiles
	hashed bool // the names of files begin with their hash
}

func (d *wanted) get(ctx context.Context, downloads *download.Downloader) error {
	f := download.File{Size: d.target.Length}
	prefix := d.target.Hashes["sha256"]
	if n := copy(f.SHA256[:], prefix); n != len(f.SHA256) {
		f.SHA512, prefix = d.target.Hashes["sha512"], d.target.Hashes["sha512"]
	}
	if len(prefix) == 0 {
		return errors.New("it has neither a SHA-256 nor a SHA-512")
	}
	file := filepath.Join(d.targetDir, url.QueryEscape(d.name))
	if data, err := os.ReadFile(file); err == nil && d.target.VerifyLengthHashes(data) == nil {
		return nil
	}
	base, err := url.Parse(d.targetURL)
	if err != nil {
		return err
	}
	dir, name := path.Split(d.name)
	if d.hashed {
		name = prefix.String() + "." + name
	}
	address := base.JoinPath((&url.URL{Path: dir}).EscapedPath(), url.PathEscape(name))
	f.URL = address.String()
	got, err := downloads.Get(ctx, f, nil)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(got)
	if err != nil {
		return err
	}
	// The other hashes, if there are some.
	if err := d.target.VerifyLengthHashes(data); err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(file, data, 0o644)
}
