/* The echo application of `gateways conform` as a libfcgi program; its answer is described in echo_wsgi.py.
 * cc -o echo echo.c -lfcgi; then: spawn-fcgi -n -p 9000 ./echo, or any other that gives it a socket as descriptor 0. */
#include <fcgiapp.h>
#include <stdlib.h>
#include <string.h>

static void escape(FCGX_Stream *out, const char *text, size_t size)
{
    static const char kept[] = "-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (size_t at = 0; at < size; at++) {
        if (text[at] && strchr(kept, text[at]))
            FCGX_PutChar(text[at], out);
        else
            FCGX_FPrintF(out, "%%%02X", (unsigned char) text[at]);
    }
}

/* The value of name in a query string, or NULL. */
static const char *asked(const char *query, const char *name)
{
    size_t size = strlen(name);
    while (query && *query) {
        if (!strncmp(query, name, size) && query[size] == '=')
            return query + size + 1;
        query = strchr(query, '&');
        if (query)
            query++;
    }
    return NULL;
}

int main(void)
{
    FCGX_Request request;
    FCGX_Init();
    FCGX_InitRequest(&request, 0, 0);
    while (FCGX_Accept_r(&request) >= 0) {
        const char *query = FCGX_GetParam("QUERY_STRING", request.envp);
        const char *status = asked(query, "status"), *size = asked(query, "size"), *words = asked(query, "stderr");
        if (words)
            FCGX_FPrintF(request.err, "%s\n", words);
        FCGX_FPrintF(request.out, "Status: %d Echo\r\nContent-Type: text/plain\r\n\r\n", status ? atoi(status) : 200);
        if (status && (atoi(status) == 204 || atoi(status) == 304))
            continue;
        if (size) {
            for (long at = 0; at < atol(size); at++)
                FCGX_PutChar("0123456789abcdef"[at % 16], request.out);
            continue;
        }
        const char *left = asked(query, "read"), *role = FCGX_GetParam("FCGI_ROLE", request.envp);
        char *body = NULL;
        size_t length = 0, room = 0;
        if ((!left || strncmp(left, "no", 2)) && (!role || strcmp(role, "AUTHORIZER"))) { /* which has no FCGI_STDIN */
            int got;
            do {
                if (room - length < 65536 && !(body = realloc(body, room += 1 << 20)))
                    return 1;
                got = FCGX_GetStr(body + length, 65536, request.in);
                length += (size_t) got;
            } while (got > 0);
        }
        FCGX_FPrintF(request.out, "gateways-echo 1\n");
        for (char **each = request.envp; *each; each++) {
            const char *mark = strchr(*each, '=');
            if (!mark)
                continue;
            escape(request.out, *each, (size_t) (mark - *each));
            FCGX_PutChar('=', request.out);
            escape(request.out, mark + 1, strlen(mark + 1));
            FCGX_PutChar('\n', request.out);
        }
        FCGX_FPrintF(request.out, "length %ld\n\n", (long) length);
        if (length)
            FCGX_PutStr(body, (int) length, request.out);
        free(body);
    }
    return 0;
}
