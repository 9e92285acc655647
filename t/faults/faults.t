# Copyright (C) The ngx_vd_module authors
#
# Whether the suite of the disk bites: each patch here plants a bug, and with it
# the behaviours that it names after "Fails:" must fail, which without it do not.

use v5.10.1;
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Temp ();
use Test::More;

use constant SUITE => 't/410-journal-disk.t';

my $top = abs_path(dirname(__FILE__) . '/../..');
my $dir = File::Temp->newdir;
my @patches = sort glob "$top/t/faults/*.patch";

# All are built before the first is run: they wait more than they compute, and are
# late for each other's limits only while something is being built.
my $plain = build();
my %built = map { $_ => build($_) } @patches;

my $output = start($plain);
my %output = map { $_ => start($built{$_}) } @patches;

my %fails_anyway = failed($output);

for my $patch (@patches) {
    subtest basename($patch, '.patch') => sub {
        my %failed = failed($output{$patch});

        for my $behaviour (slurp($patch) =~ /^Fails: (.+)$/mg) {
            ok(!$fails_anyway{$behaviour}, "does not fail without the patch: $behaviour");
            ok($failed{$behaviour}, "fails with it: $behaviour");
        }
    };
}

done_testing();


# Builds a copy, with the patch if there is one: the module.
sub build {
    my ($patch) = @_;

    state $copies = 0;
    my $copy  = "$dir/" . ++$copies;
    my $build = "cp -a $top/build/module $copy && rm $copy/addon && mkdir $copy/addon"
        . " && cp -a $top/config $top/ngx_vd_module $copy/addon";
    $build .= " && patch --quiet -p1 -d $copy/addon < $patch" if $patch;
    $build .= " && make -s -j \$(nproc) -C $copy -f objs/Makefile modules";

    system($build) == 0 or BAIL_OUT('cannot build ' . ($patch // 'the module'));
    return "$copy/objs/ngx_http_vd_module.so";
}

# Runs the suite with the module: a handle with what comes of it.  It goes to a file,
# as nobody reads it yet.
sub start {
    my ($module) = @_;

    my $run = "cd $top && TEST_NGINX_LOAD_MODULES=$module perl -It/lib " . SUITE;

    open my $output, '-|', "$run > $module.out 2>&1; cat $module.out"
        or die "cannot run a shell: $!\n";
    return $output;
}

# The behaviours that failed, of a suite that must have run to its end.
sub failed {
    my ($output) = @_;

    local $/;
    my $result = readline $output;
    close $output;

    ok($result =~ /^1\.\.\d+$/m, 'the suite runs to its end') or diag($result);
    return map { $_ => 1 } $result =~ /^not ok \d+ - (.+)$/mg;
}

sub slurp {
    my ($path) = @_;

    open my $file, '<', $path or die "cannot read $path: $!\n";
    local $/;
    return readline $file;
}
