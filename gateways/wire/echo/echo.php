<?php
// The echo application of `gateways conform`; its answer is described in echo_wsgi.py.
parse_str($_SERVER['QUERY_STRING'] ?? '', $query);
if (isset($query['stderr'])) {
    error_log($query['stderr']);
}
header('Content-Type: text/plain');
if (isset($query['status'])) {
    header('Status: ' . (int) $query['status'] . ' Echo');
}
if (isset($query['size'])) {
    $content = substr(str_repeat('0123456789abcdef', intdiv((int) $query['size'], 16) + 1), 0, (int) $query['size']);
} else {
    $body = ($query['read'] ?? '') === 'no' ? '' : file_get_contents('php://input');
    $content = "gateways-echo 1\n";
    foreach ($_SERVER as $name => $value) {
        if (is_string($value)) {
            $content .= rawurlencode($name) . '=' . rawurlencode($value) . "\n";
        }
    }
    $content .= 'length ' . strlen($body) . "\n\n" . $body;
}
if (!in_array($query['status'] ?? '', ['204', '304'], true)) {
    header('Content-Length: ' . strlen($content));
    echo $content;
}
