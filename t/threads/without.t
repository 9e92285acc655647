# Copyright (C) The ngx_vd_module authors
#
# An nginx that was built without threads: a journal with sync=off works as ever,
# one with sync=on is refused.

use v5.10.1;
use strict;
use warnings;

use Test::More;

use Test::VD;
use Test::VD::Journal qw(output raw refused);

my $OUTPUTS = output('bad', refused()) . output('ok', raw('reply 200 {"ticket_id":"T-1"}'))
    . output('ack', raw('hold'), 'vd_ack journal;');

for my $journal ('', 'sync=on') {
    my $nginx = eval { Test::VD::Journal->start(journal => $journal, server => $OUTPUTS) };

    is($nginx, undef, "nginx does not start with \"$journal\"");
    like($@, qr/\[emerg\].*"vd_journal" with "sync=on" needs nginx built with --with-threads; "sync=off" does not/,
        'and says why');
}

my $nginx = Test::VD::Journal->start(journal => 'sync=off bodies=all', server => $OUTPUTS);

like($nginx->deliver('/ok', id => 'A'), qr/^200 .*"state":"delivered".*"journaled":true\}/, 'delivered');
like($nginx->deliver('/bad', id => 'B'), qr/^202 .*"state":"pending".*"journaled":true\}/, 'pending');
like($nginx->deliver('/ack', id => 'C'), qr/^202 .*"state":"pending".*"journaled":true\}/, 'accepted');
is(join(' ', map {"$_->{id}:$_->{outcome}"} $nginx->records), 'A:delivered B:failed C:accepted',
    'their records are in the journal');
is($nginx->trouble, '', 'nothing severe was logged');

$nginx->stop;

done_testing;
