#!/bin/sh
# A shell script of the old kind: no Status, bare LF, a here document, tools of the system.
echo "Content-Type: text/html; charset=utf-8"
echo
cat <<END
<html><title>$SERVER_NAME</title><body><table>
$(printf '%s\n' "$QUERY_STRING" | tr '&' '\n' | sort | sed 's/^\([^=]*\)=\(.*\)$/<tr><td>\1<td>\2/')
</table>$(wc -c)</body></html>
END
