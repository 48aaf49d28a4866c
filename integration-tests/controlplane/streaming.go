package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// stream is the part of a kubelet that kubectl's exec, logs and port-forward
// talk to. What runs where it reads from a folder that whoever runs the pods
// writes: NAMESPACE.POD.UID/CONTAINER has the files log and process. The API
// server is not asked to prove who it is: nobody else is on the network.
func stream(arguments []string) error {
	flags := flag.NewFlagSet("kubelet-streaming", flag.ExitOnError)
	address := flags.String("address", "", "address and port to listen at")
	folder := flags.String("folder", "", "folder with what pods have and print")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	pods := pods{*folder}
	server := http.NewServeMux()
	server.HandleFunc("/exec/{namespace}/{pod}/{container}", pods.exec)
	server.HandleFunc("/portForward/{namespace}/{pod}", pods.portForward)
	server.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", pods.logs)
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", *address, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		// SPDY begins as HTTP/1.1.
		NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		return err
	}
	return http.Serve(listener, server)
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

type pods struct{ folder string }

// newest is a file of a container. One of several pods of a name is alive: the
// last.
func (p pods) newest(namespace, pod, container, file string) (string, error) {
	found, err := filepath.Glob(filepath.Join(p.folder, namespace+"."+pod+".*", container, file))
	if err != nil {
		return "", err
	}
	newest, at := "", time.Time{}
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(at) {
			newest, at = path, info.ModTime()
		}
	}
	if newest == "" {
		return "", fmt.Errorf("container %s of %s/%s is not running here", container, namespace, pod)
	}
	return newest, nil
}

// process is the first process of a container.
func (p pods) process(namespace, pod, container string) (int, error) {
	path, err := p.newest(namespace, pod, container, "process")
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func (p pods) exec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	process, err := p.process(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	remotecommand.ServeExec(w, r, inContainer(process), r.PathValue("pod"), "", r.PathValue("container"),
		r.URL.Query()["command"], options, 4*time.Hour, remotecommand.DefaultStreamCreationTimeout,
		remotecommand.SupportedStreamingProtocols)
}

// inContainer runs commands beside a process. There are no terminals.
type inContainer int

func (process inContainer) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader,
	out, errors_ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	arguments := []string{"--target", strconv.Itoa(int(process)), "--net", "--mount", "--pid", "--uts", "--root", "--wd"}
	child := exec.CommandContext(ctx, "nsenter", append(arguments, command...)...)
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", process))
	if err != nil {
		return err
	}
	child.Env = strings.Split(strings.TrimRight(string(environment), "\x00"), "\x00")
	// What is not copied by us is not waited for: input may never end.
	input, err := child.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		defer input.Close()
		if in != nil {
			_, _ = io.Copy(input, in)
		}
	}()
	// A nil of one type is not a nil of another.
	if out != nil {
		child.Stdout = out
	}
	if errors_ != nil {
		child.Stderr = errors_
	}
	err = child.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return utilexec.CodeExitError{Err: err, Code: ended.ExitCode()}
	}
	return err
}

func (p pods) portForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	process, err := p.process(r.PathValue("namespace"), r.PathValue("pod"), "*")
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	portforward.ServePortForward(w, r, toPod(process), r.PathValue("pod"), "", options, 4*time.Hour,
		remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// toPod reaches the loopback of a process.
type toPod int

func (process toPod) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	connection, err := process.dial(port)
	if err != nil {
		return err
	}
	defer connection.Close()
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(connection, stream)
		_ = connection.(*net.TCPConn).CloseWrite()
		done <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(stream, connection)
		done <- struct{}{}
	}()
	<-done
	return nil
}

func (process toPod) dial(port int32) (net.Conn, error) {
	type dialled struct {
		connection net.Conn
		err        error
	}
	result := make(chan dialled)
	go func() {
		// The thread stays in the pod's network, and ends with this function.
		runtime.LockOSThread()
		network, err := netns.GetFromPid(int(process))
		if err == nil {
			err = netns.Set(network)
			network.Close()
		}
		if err != nil {
			result <- dialled{nil, err}
			return
		}
		connection, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
		result <- dialled{connection, err}
	}()
	dialled_ := <-result
	return dialled_.connection, dialled_.err
}

// logs is what a container has printed since it was first started.
func (p pods) logs(w http.ResponseWriter, r *http.Request) {
	path, err := p.newest(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), "log")
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	file, err := os.Open(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if tail, err := strconv.Atoi(r.URL.Query().Get("tailLines")); err == nil {
		lines := strings.SplitAfter(string(content), "\n")
		if end := len(lines) - 1; lines[end] == "" {
			lines = lines[:end]
		}
		content = []byte(strings.Join(lines[max(0, len(lines)-tail):], ""))
	}
	_, _ = w.Write(content)
	for r.URL.Query().Get("follow") == "true" && r.Context().Err() == nil {
		w.(http.Flusher).Flush()
		if _, err := io.Copy(w, file); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}
