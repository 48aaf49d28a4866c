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
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

// serve answers at all ports until one of them fails.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("echo-advanced", flag.ContinueOnError)
	list := func(name, usage string) *[]string {
		values := &[]string{}
		flags.Func(name, usage, func(value string) error {
			*values = append(*values, value)
			return nil
		})
		return values
	}
	ports := list("port", "a port for HTTP/1.1 and HTTP/2 without TLS")
	encrypted := list("tls", "which of the ports is for HTTPS")
	streams := list("tcp", "a port that sends back what it is sent")
	calls := list("grpc", "a port for gRPC")
	// The image has files for these; here a certificate is made up.
	flags.String("crt", "", "ignored")
	flags.String("key", "", "ignored")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	failures := make(chan error)
	start := func(port string, serve func(net.Listener) error) {
		go func() {
			listener, err := net.Listen("tcp", ":"+port)
			if err == nil {
				err = serve(listener)
			}
			failures <- fmt.Errorf("port %s: %w", port, err)
		}()
	}
	for _, port := range *ports {
		start(port, func(listener net.Listener) error {
			return serveHTTP(listener, port, slices.Contains(*encrypted, port))
		})
	}
	for _, port := range *streams {
		start(port, serveTCP)
	}
	for _, port := range *calls {
		start(port, serveGRPC)
	}
	return <-failures
}

func serveHTTP(listener net.Listener, port string, encrypted bool) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, describe(r, port))
		}),
	}
	if !encrypted {
		return server.Serve(listener)
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	return server.ServeTLS(listener, "", "")
}

// describe is a request, one field in a line.
func describe(r *http.Request, port string) string {
	var text strings.Builder
	line := func(field, value string) { fmt.Fprintf(&text, "%s=%s\n", field, value) }
	line("ServicePort", port)
	line("Host", r.Host)
	line("URL", r.RequestURI)
	line("Method", r.Method)
	line("Proto", r.Proto)
	if ip, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		line("IP", ip)
	}
	if r.TLS != nil {
		line("Alpn", r.TLS.NegotiatedProtocol)
	}
	headers(line, "RequestHeader", r.Header)
	line("Hostname", hostname())
	return text.String()
}

// headers are sorted by name; the values of one stay in their order.
func headers(line func(field, value string), field string, headers map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, value := range headers[name] {
			line(field, name+":"+value)
		}
	}
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

func serveTCP(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_, _ = io.Copy(connection, connection)
		}()
	}
}

// calls is the echo service of the suite's other server: both ends here are
// ours, so it need not be another.
type calls struct {
	grpcechoserver.UnimplementedGrpcEchoServer
}

func (calls) Echo(ctx context.Context, _ *grpcechoserver.EchoRequest) (*grpcechoserver.EchoResponse, error) {
	assertions := &grpcechoserver.Assertions{Context: &grpcechoserver.Context{Pod: hostname()}}
	if incoming, ok := metadata.FromIncomingContext(ctx); ok {
		for name, values := range incoming {
			for _, value := range values {
				assertions.Headers = append(assertions.Headers, &grpcechoserver.Header{Key: name, Value: value})
			}
		}
	}
	return &grpcechoserver.EchoResponse{Assertions: assertions}, nil
}

func serveGRPC(listener net.Listener) error {
	server := grpc.NewServer()
	grpcechoserver.RegisterGrpcEchoServer(server, calls{})
	if err := server.Serve(listener); err != nil {
		return err
	}
	return errors.New("it ended")
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
