#!/usr/bin/perl
# Form fields, cookies, redirects and an uploaded file, all by CGI.pm.
use strict;
use warnings;
use CGI ();
use Digest::MD5 ();

my $q = CGI->new;
if ($q->param('away')) {
    print $q->redirect(-uri => 'http://localhost/elsewhere', -status => '303 See Other');
    exit;
}
print $q->header(
    -type => 'text/plain', -charset => 'utf-8', -status => $q->param('status') || '200 OK',
    -cookie => [$q->cookie(-name => 'one', -value => 'a b'), $q->cookie(-name => 'two', -value => 2)],
);
for my $name (sort $q->param) {
    next if $name eq 'file';
    print "$name=", join('|', $q->multi_param($name)), "\n";
}
print 'cookie=', $q->cookie('seen') // '', "\n";
print 'url=', $q->url(-absolute => 1, -path_info => 1), "\n";
if (my $file = $q->upload('file')) {
    my $sum = Digest::MD5->new->addfile($file->handle)->hexdigest;
    print 'file=', $q->param('file') . '', ' ', -s $file, " $sum\n";
}
