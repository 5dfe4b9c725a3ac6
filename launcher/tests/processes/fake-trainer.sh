#!/bin/sh
# A stand-in for the trainer, to test what starts and ends it. What it does is said by FAKE_RANK_<local rank>, else by
# FAKE_TRAINER: exit:CODE, step:CODE (exits after it said that it committed a step: 7, and one further each life), again:CODE (the
# same, but step 7 in every life), once:CODE (exits the first time, then goes
# on with the run), obedient, stubborn (ignores TERM and stdin), with-the-run (ends when RUN/ended appears).
local_rank=0
run=.
for word in "$@"; do
    case "$before" in
    --local-rank) local_rank=$word ;;
    --run) run=$word ;;
    esac
    before=$word
done
eval "act=\${FAKE_RANK_$local_rank:-\$FAKE_TRAINER}"
case "$act" in
once:*)
    if [ -e "$run/logs/came-$local_rank" ]; then act=with-the-run; else act=exit:${act#once:}; fi
    : >"$run/logs/came-$local_rank"
    ;;
step:*)
    echo x >>"$run/logs/lives-$local_rank"
    echo "{\"committed\":$((6 + $(wc -l <"$run/logs/lives-$local_rank")))}"
    act=exit:${act#step:}
    ;;
again:*)
    echo '{"committed":7}'
    act=exit:${act#again:}
    ;;
esac
case "$act" in
exit:*)
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do echo "line $i of trainer $local_rank"; done
    echo "error: the device of trainer $local_rank is on fire" >&2
    exit "${act#exit:}"
    ;;
obedient) exec sleep 600 ;;
stubborn)
    trap '' TERM
    exec sleep 600
    ;;
with-the-run)
    while [ ! -e "$run/ended" ]; do sleep 0.05; done
    exit "$(cat "$run/ended")"
    ;;
esac
