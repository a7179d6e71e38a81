# Completes each line of standard input: prints what is offered, a word each, and a line `==`.
source $argv[1]

while read -l line
    complete -C "$line" | string split -f 1 \t
    echo ==
end
