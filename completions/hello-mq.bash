# Completion of hello-mq for bash 3.2 and later. hello-mq itself says what there is to offer.

_hello_mq() {
    local IFS=$' \t\n' words=() piece rest trimmed i current strip quote= program
    COMPREPLY=()

    # Bash takes words apart at '=' and ':', too. What no blank separates belongs together.
    rest=${COMP_LINE:0:COMP_POINT}
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${rest#"${rest%%[![:blank:]]*}"}
        piece=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            piece=$trimmed
        fi
        if ((i > 0)) && [[ $trimmed == "$rest" ]]; then
            words[${#words[@]} - 1]+=$piece
        else
            words[${#words[@]}]=$piece
        fi
        rest=${trimmed#"$piece"}
    done

    # Of the word under the cursor bash replaces what stands behind the last '=' or ':'.
    current=${words[${#words[@]} - 1]}
    case $piece in
        [=:]*) strip=$current ;;
        *) strip=${current%"$piece"} ;;
    esac
    for ((i = 0; i < ${#words[@]}; i++)); do
        case ${words[i]} in
            [\"\']*)
                quote=${words[i]:0:1}
                words[i]=${words[i]:1}
                words[i]=${words[i]%"$quote"}
                ;;
            *)
                quote=
                words[i]=${words[i]//\\/}
                words[i]=${words[i]/#~\//$HOME/}
                ;;
        esac
    done
    [[ -z $quote ]] || strip=

    program=$1
    [[ $program == */* ]] || program=hello-mq
    program=${program/#~\//$HOME/}

    local what detail value _help
    {
        IFS=$'\t' read -r what detail
        case $what in
            files | directories)
                local kind=-f
                [[ $what == files ]] || kind=-d
                compopt -o filenames 2>/dev/null
                # The shell's own quoting stays as it is typed.
                value=${current#"$quote"}
                value=${value#"$detail"}
                detail=${detail#"${strip#"$quote"}"}
                while IFS= read -r value; do
                    COMPREPLY[${#COMPREPLY[@]}]=$detail$value
                done < <(compgen "$kind" -- "${value//\\/}")
                ;;
            command)
                _hello_mq_command "$detail"
                ;;
            words)
                while IFS=$'\t' read -r value _help; do
                    [[ -n $quote ]] || printf -v value %q "$value"
                    COMPREPLY[${#COMPREPLY[@]}]=${value#"$strip"}
                done
                if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]]; then
                    compopt -o nospace 2>/dev/null
                fi
                ;;
        esac
    } < <(_HELLO_MQ_COMPLETE=bash "$program" -- "${words[@]}" 2>/dev/null)
}

# Completes the command that starts at word $1, which is behind '--'.
_hello_mq_command() {
    local i
    for ((i = 0; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} != -- ]] || break
    done
    if declare -F _command_offset >/dev/null; then
        _command_offset $((i + 1))
    elif ((i + 1 == COMP_CWORD)); then
        while IFS= read -r value; do
            COMPREPLY[${#COMPREPLY[@]}]=$value
        done < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        compopt -o filenames 2>/dev/null
        while IFS= read -r value; do
            COMPREPLY[${#COMPREPLY[@]}]=$value
        done < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
    fi
}

complete -F _hello_mq hello-mq
