/* Answers with the length and a sum of the body, with stdio's own buffers and no more than CONTENT_LENGTH read. */
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    const char *text = getenv("CONTENT_LENGTH"), *info = getenv("PATH_INFO");
    long left = text ? atol(text) : 0, count = 0;
    unsigned long sum = 0;
    int byte;

    while (count < left && (byte = getchar()) != EOF) {
        sum += (unsigned char)byte;
        count++;
    }
    printf("Content-Type: text/plain\r\nX-Sum: %lu\r\n\r\n%ld %lu %s\n", sum, count, sum, info ? info : "-");
    return 0;
}
