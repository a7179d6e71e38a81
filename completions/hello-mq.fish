# Completion of hello-mq for fish. hello-mq itself says what there is to offer.

function __hello_mq_complete
    set -l words (commandline -opc)
    set -l current (string unescape -- (commandline -ct))
    set -l program hello-mq
    if string match -q '*/*' -- $words[1]
        set program (string replace -r '^~/' "$HOME/" -- $words[1])
    end
    set words (string replace -r '^~/' "$HOME/" -- $words)
    set -l answer (_HELLO_MQ_COMPLETE=fish $program -- $words "$current" 2>/dev/null)
    set -l first (string split -m 1 \t -- $answer[1])
    set -l detail "$first[2]"
    switch "$first[1]"
        case files
            set -l path (string sub -s (math (string length -- "$detail") + 1) -- "$current")
            printf '%s\n' "$detail"(__fish_complete_path "$path")
        case directories
            set -l path (string sub -s (math (string length -- "$detail") + 1) -- "$current")
            printf '%s\n' "$detail"(__fish_complete_directories "$path")
        case command
            set -l rest
            if test $detail -lt (count $words)
                set rest (string escape -- $words[(math $detail + 1)..-1])
            end
            complete -C (string join ' ' -- $rest (commandline -ct))
        case words
            printf '%s\n' $answer[2..-1]
    end
end

complete -c hello-mq -e
complete -c hello-mq -f -k -a '(__hello_mq_complete)'
