package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

// patience is how long one answer may take.
const patience = 5 * time.Second

// ask sends requests and prints the answers: what the client has seen, and the
// lines of the body, each marked with the number of its request; an empty line
// after each answer.
func ask(arguments []string) error {
	// Options may follow the address.
	if len(arguments) == 0 {
		return fmt.Errorf("usage: client URL [--method=METHOD] [-H NAME:VALUE] [--count=N]")
	}
	address := arguments[0]
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	method := flags.String("method", http.MethodGet, "method of HTTP")
	count := flags.Int("count", 1, "how many requests to send")
	header := http.Header{}
	flags.Func("H", "a header, NAME:VALUE", func(text string) error {
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			return fmt.Errorf("%q is not NAME:VALUE", text)
		}
		header.Add(name, strings.TrimSpace(value))
		return nil
	})
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	send := func() (answer, error) { return request(target, *method, header) }
	if target.Scheme == "grpc" {
		connection, err := grpc.NewClient(target.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer connection.Close()
		send = func() (answer, error) { return call(connection, header) }
	}
	for number := range *count {
		answer, err := send()
		if err != nil {
			return fmt.Errorf("[%d error] %w", number, err)
		}
		for _, line := range answer.seen {
			fmt.Printf("[%d] %s\n", number, line)
		}
		for _, line := range answer.body {
			fmt.Printf("[%d body] %s\n", number, line)
		}
		fmt.Println()
	}
	return nil
}

// An answer is what the client has seen of it, and the lines of its body.
type answer struct{ seen, body []string }

func (a *answer) line(field, value string) { a.seen = append(a.seen, field+"="+value) }

// web follows no redirects and asks for nothing that it was not told to ask for.
var web = http.Client{
	Timeout:       patience,
	Transport:     &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func request(target *url.URL, method string, header http.Header) (answer, error) {
	var answer answer
	r, err := http.NewRequest(method, target.String(), nil)
	if err != nil {
		return answer, err
	}
	r.Header = header.Clone()
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	response, err := web.Do(r)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer, err
	}
	answer.line("StatusCode", strconv.Itoa(response.StatusCode))
	headers(answer.line, "ResponseHeader", response.Header)
	for line := range strings.Lines(string(body)) {
		// An empty line would be the end of the answer.
		if line = strings.TrimSpace(line); line != "" {
			answer.body = append(answer.body, line)
		}
	}
	return answer, nil
}

func call(connection *grpc.ClientConn, header http.Header) (answer, error) {
	var answer answer
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for name, values := range header {
		for _, value := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
		}
	}
	response, err := grpcechoserver.NewGrpcEchoClient(connection).Echo(ctx, &grpcechoserver.EchoRequest{})
	if err != nil {
		return answer, err
	}
	// What the suite expects of a call that went well.
	answer.line("StatusCode", strconv.Itoa(http.StatusOK))
	for _, header := range response.GetAssertions().GetHeaders() {
		answer.line("RequestHeader", header.GetKey()+":"+header.GetValue())
	}
	answer.line("Hostname", response.GetAssertions().GetContext().GetPod())
	return answer, nil
}
