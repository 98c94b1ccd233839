<?php // Form fields, an uploaded file, the input and the path, as php-cgi has them.
header('X-From: ' . PHP_SAPI);
header('Set-Cookie: a=1', false);
header('Set-Cookie: b=2', false);
if (isset($_GET['status'])) {
    http_response_code((int) $_GET['status']);
}
header('Content-Type: application/json');
$file = $_FILES['file'] ?? null;
echo json_encode([
    'get' => $_GET, 'post' => $_POST, 'cookie' => $_COOKIE, 'path' => $_SERVER['PATH_INFO'] ?? null,
    'script' => $_SERVER['SCRIPT_NAME'], 'name' => $_SERVER['SCRIPT_FILENAME'], 'self' => $_SERVER['PHP_SELF'],
    'file' => $file ? [$file['name'], $file['size'], md5_file($file['tmp_name'])] : null,
    'input' => md5(file_get_contents('php://input')), 'argv' => $_SERVER['argv'] ?? null,
], JSON_INVALID_UTF8_SUBSTITUTE);
