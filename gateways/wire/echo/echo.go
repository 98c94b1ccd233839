// The echo application of `gateways conform` for Go's net/http/fcgi; its answer is described in echo_wsgi.py.
// go build echo.go; then any that gives it a socket as descriptor 0. The package hands on as an environment what it
// has not made a part of the request itself; those parameters that the cases ask for are written from there.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/fcgi"
	"net/url"
	"strconv"
	"strings"
)

func escape(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

func echo(out http.ResponseWriter, request *http.Request) {
	query, content := request.URL.Query(), new(bytes.Buffer)
	size, sized := strconv.Atoi(query.Get("size"))
	if sized == nil {
		content.Write(bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size])
	} else {
		params := fcgi.ProcessEnv(request)
		params["REQUEST_METHOD"], params["CONTENT_TYPE"] = request.Method, request.Header.Get("Content-Type")
		if request.ContentLength >= 0 {
			params["CONTENT_LENGTH"] = strconv.FormatInt(request.ContentLength, 10)
		}
		body := []byte{}
		if query.Get("read") != "no" {
			body, _ = io.ReadAll(request.Body)
		}
		content.WriteString("gateways-echo 1\n")
		for name, value := range params {
			fmt.Fprintf(content, "%s=%s\n", escape(name), escape(value))
		}
		fmt.Fprintf(content, "length %d\n\n%s", len(body), body)
	}
	out.Header().Set("Content-Type", "text/plain")
	status, asked := strconv.Atoi(query.Get("status"))
	if asked != nil {
		status = 200
	}
	out.WriteHeader(status)
	if status != 204 && status != 304 {
		out.Write(content.Bytes())
	}
}

func main() { fcgi.Serve(nil, http.HandlerFunc(echo)) }
