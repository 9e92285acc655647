package Test::VD::TLS;

# Copyright (C) The ngx_vd_module authors
#
# Certificates for a suite: `use Test::VD::TLS;` makes them, and the directory
# that they are in is $TEST_NGINX_CERTS until the suite ends.  NAME.crt goes
# with NAME.key.
#
#   ca, other       two authorities that know nothing of each other
#   deputy          an authority below other, and below it: assistant
#   server          of ca, for receiver.test
#   stranger        the same, of other
#   self            the same, signed by itself
#   wrong-name      of ca, for elsewhere.test
#   expired, future the same as server, but for another time
#   revoked         the same, and ca.crl says so; other.crl is an empty list
#   one-below       of deputy, for receiver.test, deputy's own following it
#   two-below       of assistant, with both
#   client          of ca, for a client; client2 is another
#   locked          of ca, for a client; its key's password is in locked.pass,
#                   and wrong.pass has another

use v5.10.1;
use strict;
use warnings;

use File::Temp ();

my $owner = $$;
my $dir   = File::Temp->newdir('vd-certs-XXXXXX', TMPDIR => 1, CLEANUP => 0);

my @NOW    = (days_from_now(-1),  days_from_now(30));
my @PAST   = (days_from_now(-30), days_from_now(-1));
my @FUTURE = (days_from_now(10),  days_from_now(30));

$ENV{TEST_NGINX_CERTS} = "$dir";
make_all();


sub make_all {
    write_file('openssl.cnf', config());

    for my $ca (qw(ca other)) {
        prepare_authority($ca);
        make_key($ca);
        openssl(qw(req -x509 -days 30 -extensions authority -subj), "/CN=$ca",
            '-key', "$ca.key", '-out', "$ca.crt");
    }

    make_authority(deputy    => 'other');
    make_authority(assistant => 'deputy');

    make('server',     'ca',    'receiver', @NOW);
    make('stranger',   'other', 'receiver', @NOW);
    make('wrong-name', 'ca',    'elsewhere', @NOW);
    make('expired',    'ca',    'receiver', @PAST);
    make('future',     'ca',    'receiver', @FUTURE);
    make('revoked',    'ca',    'receiver', @NOW);
    make('client',     'ca',    'client',   @NOW);
    make('client2',    'ca',    'client',   @NOW);
    make('locked',     'ca',    'client',   @NOW);

    make('one-below', 'deputy',    'receiver', @NOW);
    make('two-below', 'assistant', 'receiver', @NOW);
    append('one-below.crt', 'deputy.crt');
    append('two-below.crt', 'assistant.crt', 'deputy.crt');

    make_key('self');
    openssl(qw(req -x509 -days 30 -extensions receiver -subj /CN=self),
        qw(-key self.key -out self.crt));

    openssl(qw(ca -name ca -revoke revoked.crt));
    openssl('ca', '-name', $_, '-gencrl', '-out', "$_.crl") for qw(ca other);

    write_file('locked.pass', "open sesame\n");
    write_file('wrong.pass',  "open barley\n");
    openssl(qw(ec -aes128 -in locked.key -out locked.key.new),
        qw(-passout file:locked.pass));
    rename "$dir/locked.key.new", "$dir/locked.key" or die "rename: $!\n";
    return;
}

# One section for each authority: "openssl ca" has no other way to tell them.
sub config {
    my $text = <<'END';
[req]
distinguished_name = name
[name]
[policy]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = keyCertSign, cRLSign
[receiver]
subjectAltName = DNS:receiver.test
[elsewhere]
subjectAltName = DNS:elsewhere.test
[client]
extendedKeyUsage = clientAuth
END

    for my $ca (qw(ca other deputy assistant)) {
        $text .= <<"END";
[$ca]
certificate = $ca.crt
private_key = $ca.key
new_certs_dir = .
database = $ca.db
serial = $ca.serial
default_md = sha256
default_crl_days = 30
policy = policy
unique_subject = no
END
    }

    return $text;
}

sub prepare_authority {
    my ($ca) = @_;

    write_file("$ca.db",     '');
    write_file("$ca.serial", sprintf "%02X000001\n", 0x10 + length $ca);
    return;
}

sub make_authority {
    my ($name, $issuer) = @_;

    prepare_authority($name);
    make($name, $issuer, 'authority', @NOW);
    return;
}

sub make {
    my ($name, $issuer, $extensions, $start, $end) = @_;

    make_key($name);
    openssl(qw(req -new -subj), "/CN=$name", '-key', "$name.key", '-out', "$name.csr");
    openssl(qw(ca -batch -notext -name), $issuer, '-extensions', $extensions,
        '-startdate', $start, '-enddate', $end, '-in', "$name.csr", '-out', "$name.crt");
    return;
}

sub make_key {
    my ($name) = @_;

    openssl(qw(genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out), "$name.key");
    return;
}

sub openssl {
    my ($command, @options) = @_;

    push @options, qw(-config openssl.cnf) if $command =~ /^(?:req|ca)$/;

    my $pid = open my $output, '-|' // die "fork: $!\n";
    if ($pid == 0) {
        chdir $dir or die "chdir $dir: $!\n";
        open STDERR, '>&', \*STDOUT or die "dup: $!\n";
        exec 'openssl', $command, @options or die "cannot run openssl: $!\n";
    }

    my $text = do { local $/; <$output> } // '';
    close $output or die "openssl $command @options failed:\n$text\n";
    return;
}

sub days_from_now {
    my ($days) = @_;

    my @time = gmtime(time + $days * 86400);
    return sprintf '%04d%02d%02d%02d%02d%02dZ', $time[5] + 1900, $time[4] + 1,
        @time[ 3, 2, 1, 0 ];
}

sub write_file {
    my ($name, $text) = @_;

    open my $file, '>', "$dir/$name" or die "cannot write $dir/$name: $!\n";
    print {$file} $text;
    close $file or die "cannot write $dir/$name: $!\n";
    return;
}

sub read_file {
    my ($name) = @_;

    open my $file, '<', "$dir/$name" or die "cannot read $dir/$name: $!\n";
    local $/;
    return <$file>;
}

sub append {
    my ($name, @others) = @_;

    write_file($name, join '', map { read_file($_) } $name, @others);
    return;
}

# nginx is stopped by then, or does without: it has read them at its start.
END {
    if ($$ == $owner) {
        local ($?, $!);
        require File::Path;
        File::Path::remove_tree("$dir");
    }
}

1;
