# Copyright (C) The ngx_vd_module authors
#
# vd_journal, vd_ack, vd_zone and vd_status in the configuration: what is wrong
# is refused with a word on what would be right, and all the rest is silent.

use v5.10.1;
use strict;
use warnings;

use File::Temp ();
use Test::More;

BAIL_OUT('must be run as root') if $> != 0;

my $nginx = $ENV{TEST_NGINX_BINARY} || 'nginx';
my $dir   = File::Temp->newdir;
my $load  = join "\n", map {"load_module $_;"} split ' ', $ENV{TEST_NGINX_LOAD_MODULES} // '';

chmod 0755, $dir;
mkdir "$dir/$_" for qw(logs journal other private group unreadable);
chmod 0777, "$dir/$_" for qw(journal other);
chmod 0755, "$dir/private";
chmod 0733, "$dir/unreadable";
chown 0, 8, "$dir/group";     # "mail" on Debian
chmod 0770, "$dir/group";
symlink 'journal', "$dir/link";
symlink 'nowhere', "$dir/dangling";
write_file(secret => "the secret of this suite\n");
write_file(file   => '');


sub write_file {
    my ($name, $text) = @_;

    open my $file, '>', "$dir/$name" or die "cannot write $name: $!\n";
    chmod 0600, "$dir/$name";
    print {$file} $text;
    close $file or die "cannot write $name: $!\n";
    return;
}

# What nginx -t says of a configuration, and whether it is content.
sub test_conf {
    my (%conf) = @_;

    my ($user, $http, $server, $events) = map { $conf{$_} // '' } qw(user http server events);
    $user = $conf{user} // 'user root;';
    write_file('nginx.conf', <<"CONFIG");
$load
$user
pid logs/nginx.pid;
error_log logs/error.log warn;
events { $events }
http {
    access_log off;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    scgi_temp_path temp;
    uwsgi_temp_path temp;
    vd_secret_file secret;
$http
    server {
        listen unix:$dir/socket;
$server
    }
}
$conf{behind}
CONFIG
    my $text = qx($nginx -t -q -p $dir/ -c nginx.conf -e stderr 2>&1);
    return ($? == 0, $text =~ s/^nginx: //mgr);
}

sub refused {
    my ($what, $pattern, %conf) = @_;

    my ($ok, $text) = test_conf(behind => '', %conf);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(!$ok, "$what: refused");
    like($text, qr/\[emerg\].*$pattern/, "$what: the reason");
    return;
}

sub starts {
    my ($what, %conf) = @_;

    my ($ok, $text) = test_conf(behind => '', %conf);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($ok, "$what: starts");
    is($text, '', "$what: without a word");
    return;
}

sub journal {
    my ($what, $parameters, $pattern, %more) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return refused($what, $pattern, http => "vd_journal $parameters;", %more);
}

my $PASS   = 'vd_pass http://127.0.0.1:1; vd_output 28;';
my $ALL_OF = qr/ in "vd_journal" directive, it must be "sync=", "bodies=" or "segment="/;
my $NOBODY = qr/must be readable and writable for user "nobody", as which the workers run/;
my $HERE   = qr/ in \S+nginx\.conf:\d+$/m;


# ---- vd_journal ----

journal('missing', 'missing', qr/"vd_journal" directory "\Q$dir\E\/missing" cannot be used, it must exist.*\(2: No such file.*$HERE/);
journal('missing, absolute', "$dir/a/b", qr/"vd_journal" directory "\Q$dir\E\/a\/b" cannot be used/);
journal('a file', 'file', qr/"vd_journal" "\Q$dir\E\/file" is not a directory.*$HERE/);
journal('a file as a directory', 'file/x', qr/"vd_journal" directory .*\(20: Not a directory\)/);
journal('a dangling link', 'dangling', qr/"vd_journal" directory .*\(2: No such file/);
journal('nothing', '', qr/invalid number of arguments in "vd_journal" directive/);
journal('empty', '""', qr/invalid directory "" in "vd_journal" directive$HERE/);
journal('off with more', 'off sync=off', qr/"vd_journal"/);

journal('not writable', 'private', qr/"vd_journal" directory "\Q$dir\E\/private" $NOBODY \(13: Permission denied\)$HERE/,
    user => 'user nobody nogroup;');
journal('not readable', 'unreadable', qr/unreadable" $NOBODY/, user => 'user nobody nogroup;');
journal('of a group that nobody is not in', 'group', $NOBODY,
    user => 'user nobody nogroup;');
# nginx has a user of its own for its workers, where there is no directive
journal('not writable, without a user directive', 'private', $NOBODY, user => '');
starts('writable by the user\'s group', user => 'user nobody mail;', http => 'vd_journal group;');
starts('writable by nobody',  user => 'user nobody nogroup;', http => 'vd_journal journal;');
starts('writable by the default user', user => '', http => 'vd_journal journal;');
starts('writable by root', http => 'vd_journal private;');

for my $value (qw(sync=maybe sync= sync=ON sync=1)) {
    journal($value, "journal $value", qr/invalid parameter "\Q$value\E" in "vd_journal" directive, it must be "on" or "off"$HERE/);
}
for my $value (qw(bodies=some bodies= bodies=none)) {
    journal($value, "journal $value", qr/invalid parameter "\Q$value\E" in "vd_journal" directive, it must be "all" or "failed"$HERE/);
}
for my $value (qw(segment=1 segment= segment=x segment=-1 segment=4095 segment=0 segment=1kk segment=2g segment=99999999999999999999)) {
    journal($value, "journal $value", qr/invalid parameter "\Q$value\E" in "vd_journal" directive, it must be a size of "4k" or more, in bytes, "k" or "m"$HERE/);
}
for my $value (qw(foo=bar on sync SYNC=on body=all other)) {
    journal($value, "journal $value", qr/invalid parameter "\Q$value\E"$ALL_OF$HERE/);
}
journal('a parameter twice', 'journal sync=on sync=off', qr/duplicate parameter "sync=off" in "vd_journal" directive/);
journal('a parameter twice, the same', 'journal segment=4k segment=4k', qr/duplicate parameter "segment=4k" in "vd_journal" directive/);

journal('twice', "journal; vd_journal other", qr/"vd_journal" directive is duplicate/);
journal('twice, off', "off; vd_journal journal", qr/"vd_journal" directive is duplicate/);
for my $other ('journal sync=off', 'journal bodies=all', 'journal segment=8k', "$dir/journal sync=off", 'journal// segment=8k') {
    refused("other parameters: $other", qr/"vd_journal" "\Q$dir\E\/\S*journal" has other parameters here than in \S+nginx\.conf:\d+$HERE/,
        http => 'vd_journal journal;', server => "vd_journal $other;");
}

starts('defaults', http => 'vd_journal journal;', server => "location / { $PASS }");
starts('defaults, in words', http => 'vd_journal journal;',
    server => 'vd_journal journal sync=on bodies=failed segment=64m;');
starts('in all contexts', http => 'vd_journal journal;',
    server => "vd_journal other sync=off; location / { vd_journal off; $PASS } location /a { vd_journal journal; $PASS }");
starts('with a slash', http => 'vd_journal journal/;', server => 'vd_journal journal;');
starts('a link', http => "vd_journal $dir/link sync=off bodies=all segment=4k;");
starts('off', http => 'vd_journal off;');
starts('large segments', http => 'vd_journal journal segment=2048m;');
starts('without vd_pass', http => 'vd_journal journal;');

is(scalar(grep { !/^\.\.?$/ } do { opendir my $d, "$dir/journal" or die; readdir $d }), 0, 'nothing is written by nginx -t');


# ---- threads ----

# Not every nginx has it; one that has it must not start.
refused('use poll', qr/(?:"vd_journal" with "sync=on" needs .*"poll"|invalid event type "poll")/,
    events => 'use poll;', http => 'vd_journal journal;');


# ---- vd_ack ----

for my $server (
    "vd_ack journal; location / { $PASS }",
    "vd_journal journal; location / { vd_journal off; vd_ack journal; $PASS }",
    "location / { vd_ack journal; $PASS } vd_journal off;",
) {
    refused("no journal: $server", qr/"vd_ack journal" needs a "vd_journal" for the "vd_pass" directive in \S+nginx\.conf:\d+/,
        server => $server);
}
refused('neither', qr/"vd_ack" directive must be "delivery" or "journal"/, server => 'vd_ack disk;');
refused('nothing', qr/invalid number of arguments in "vd_ack" directive/, server => 'vd_ack;');
refused('too much', qr/invalid number of arguments in "vd_ack" directive/, server => 'vd_ack journal x;');
refused('vd_ack twice', qr/"vd_ack" directive is duplicate/, server => 'vd_ack delivery; vd_ack journal;');
starts('vd_ack journal', http => 'vd_journal journal; vd_ack journal;', server => "location / { $PASS }");
starts('vd_ack journal for who has one', http => 'vd_ack journal;',
    server => "location / { vd_journal journal; $PASS } location /a { vd_ack delivery; $PASS }");
starts('vd_ack journal without vd_pass', http => 'vd_ack journal;');


# ---- vd_zone, vd_status ----

refused('vd_status without a zone', qr/no "vd_zone" is defined for the "vd_status" directive/, server => 'location /s { vd_status; }');
refused('vd_status with an argument', qr/invalid number of arguments in "vd_status" directive/,
    http => 'vd_zone v 1m;', server => 'location /s { vd_status on; }');
refused('vd_status twice', qr/"vd_status" directive is duplicate/,
    http => 'vd_zone v 1m;', server => 'location /s { vd_status; vd_status; }');
refused('vd_status in a server', qr/"vd_status" directive is not allowed here/, http => 'vd_zone v 1m;', server => 'vd_status;');
refused('vd_zone in a server', qr/"vd_zone" directive is not allowed here/, server => 'vd_zone v 1m;');
refused('vd_zone twice', qr/"vd_zone" directive is duplicate/, http => 'vd_zone v 1m; vd_zone w 1m;');
refused('vd_zone without a size', qr/invalid number of arguments in "vd_zone" directive/, http => 'vd_zone v;');
refused('vd_zone without a name', qr/"vd_zone" directive/, http => 'vd_zone "" 1m;');
refused("a size $_", qr/invalid size "\Q$_\E" in "vd_zone" directive/, http => "vd_zone v $_;") for qw(big -1m 1x);
refused("a size $_", qr/zone "v" is too small in "vd_zone" directive, \d+ is enough for one output/, http => "vd_zone v $_;")
    for qw(0 1 4k 31k);
refused('a zone of another module', qr/"v"/, http => 'limit_req_zone $uri zone=v:1m rate=1r/s; vd_zone v 1m;');
refused('a zone of another module, behind', qr/"v"/, http => 'vd_zone v 1m; limit_req_zone $uri zone=v:1m rate=1r/s;');
starts('a zone and its page', http => 'vd_zone v 1m;', server => "location /s { vd_status; } location / { $PASS }");
starts('a zone alone', http => 'vd_zone v 32k;');

for my $outputs (1, 3, 50, 300) {
    my $server = join '', map {"location = /$_ { vd_pass http://127.0.0.1:1; vd_output o$_; }\n"} 1 .. $outputs;

    my ($ok, $text) = test_conf(behind => '', http => 'vd_zone v 32k;', server => $server);
    my ($enough) = $text =~ /too small in "vd_zone" directive, (\d+) is enough for $outputs outputs/;
    if (!defined $enough) {
        is($ok, $outputs <= 3, "$outputs outputs: 32k is enough for a few only");
        (undef, $text) = test_conf(behind => '', http => 'vd_zone v 4k;', server => $server);
        ($enough) = $text =~ /(\d+) is enough for one output/;
    }
    like($enough // 'none', qr/^\d+$/, "$outputs outputs: a size is named");
    starts("$outputs outputs: a zone of $enough", http => "vd_zone v $enough;", server => $server)
        if $enough && ($outputs == 1 || $text =~ /for $outputs outputs/);
    cmp_ok($enough, '<', 40_000 + 8192 * $outputs, "$outputs outputs: and not more than need be");
}


done_testing();
