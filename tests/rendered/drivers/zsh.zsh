# Types each line of standard input, and Tab, into an interactive zsh on a pseudo-terminal: prints
# what it shows, then `=` and what the line has become, and a line `==`.
zmodload zsh/zpty

rc=$(mktemp -d)
trap 'rm -rf $rc' EXIT
cat >$rc/.zshrc <<END
PS1= LISTMAX=0
unsetopt list_ambiguous prompt_cr prompt_sp
fpath=(${(q)1} \$fpath)
autoload -Uz compinit && compinit -u -D
done-with-it() {
    print -rn -- \$'\\n='"\$BUFFER"\$'\\x1e'
    BUFFER=
}
zle -N done-with-it
zle-line-init() { print -rn -- \$'\\x1e' }
zle -N zle-line-init
bindkey '^X^D' done-with-it
END
zpty shell "stty rows 500 cols 200; ZDOTDIR=$rc TERM=dumb exec zsh -o no_global_rcs -i"

# Prints what comes up to the character that says that a line is done.
listen() {
    local all
    zpty -r shell all $'*\x1e*' || exit 1
    print -r -- "${${all%%$'\x1e'*}//$'\r'/}"
}

# Before the line editor is ready the terminal itself would take the keys.
listen >/dev/null

while IFS= read -r line; do
    zpty -w -n shell "$line"$'\t\x18\x04'
    listen
    print -r -- '=='
done
