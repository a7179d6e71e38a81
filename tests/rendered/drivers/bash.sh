# Completes each line of standard input as bash does when a person types it and Tab: prints what is
# offered, a word each, and a line `==`.
source "$1"

while IFS= read -r line; do
    COMP_LINE=$line
    COMP_POINT=${#line}
    # Bash takes words apart at blanks and at $COMP_WORDBREAKS, of which these two matter here.
    read -ra COMP_WORDS <<<"$(sed -E 's/([=:]+)/ \1 /g' <<<"$line")"
    [[ $line != *' ' ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _hello_mq hello-mq
    for word in "${COMPREPLY[@]}"; do
        printf '%s\n' "$word"
    done
    printf '==\n'
done
