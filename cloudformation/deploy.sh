#!/usr/bin/env bash
# Deploys logferry's resources into the provider's account. Run it again after any change: what is as wanted stays as it is.
set -euo pipefail
shopt -s inherit_errexit

usage() {
    cat <<'TEXT'
usage: deploy.sh -e NAME -b BUCKET [--region REGION | --regions REGION,REGION] [OPTION...]

  -e, --environment NAME     part of every name: a letter, then up to 11 letters and digits, all in lower case
  -b, --bucket BUCKET        bucket for the templates, in any Region; it must exist
      --region REGION        where to deploy; default: the AWS CLI's Region
      --regions A,B          where to deploy; the central role is in the first one, and all use it. The first one stays the first
      --include-sqs          the queue, its dead-letter queue and their alarms
      --include-ecs          the workers on Fargate; needs --ecr-image-uri, -p VpcId=... and -p SubnetIds=...
      --include-lambda       the Lambda function; needs --ecr-image-uri
      --ecr-image-uri URI    the image; {region} in it is replaced by the Region
  -p, --parameter NAME=VALUE a parameter of main.yaml, several times
      --validate-only        checks the templates: with cfn-lint if that is installed, without credentials; else with CloudFormation
      --dry-run              makes change sets, prints them and deletes them
      --path-style           path-style URLs of the templates, also with AWS_S3_USE_PATH_STYLE=true
      --prefix PREFIX        start of the templates' keys in BUCKET; default: logferry-templates
  -h, --help

Parameters and parts that a run does not name stay as they are. To remove a part: -p IncludeEcs=false.
TEXT
}

die() {
    printf 'deploy.sh: %s\n' "$*" >&2
    exit 1
}

environment='' bucket='' regions='' image='' mode=deploy style=virtual prefix=logferry-templates
[[ ${AWS_S3_USE_PATH_STYLE:-} != true ]] || style=path
declare -A given=()
while (($#)); do
    case $1 in
        -e | --environment | -b | --bucket | --region | --regions | --ecr-image-uri | -p | --parameter | --prefix)
            (($# > 1)) || die "$1 needs a value"
            ;;&
        -e | --environment) environment=$2 && shift 2 ;;
        -b | --bucket) bucket=$2 && shift 2 ;;
        --region | --regions) regions=$2 && shift 2 ;;
        --include-sqs) given[IncludeSqs]=true && shift ;;
        --include-lambda) given[IncludeLambda]=true && shift ;;
        --include-ecs) given[IncludeEcs]=true && shift ;;
        --ecr-image-uri) image=$2 && shift 2 ;;
        -p | --parameter)
            [[ $2 == ?*=* ]] || die "$1 $2: not NAME=VALUE"
            case ${2%%=*} in CentralRoleArn | FurtherWorkerRoles) die "${2%%=*} is set by --regions" ;; esac
            given[${2%%=*}]=${2#*=} && shift 2
            ;;
        --validate-only) mode=validate && shift ;;
        --dry-run) mode=dry-run && shift ;;
        --path-style) style=path && shift ;;
        --prefix) prefix=$2 && shift 2 ;;
        -h | --help) usage && exit ;;
        *) die "$1: unknown; see deploy.sh --help" ;;
    esac
done

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

validate() {
    local name
    if command -v cfn-lint >/dev/null; then
        cfn-lint "$folder"/*.yaml || die 'cfn-lint found problems'
    else
        command -v aws >/dev/null || die 'neither cfn-lint nor the AWS CLI is installed'
        for name in "$folder"/*.yaml; do
            aws cloudformation validate-template --template-body "file://$name" >/dev/null || die "${name##*/} is not valid"
        done
    fi
    printf 'templates are valid\n'
}
[[ $mode != validate ]] || { validate && exit; }

[[ $environment =~ ^[a-z][a-z0-9]{0,11}$ ]] || die '-e NAME: a letter, then up to 11 letters and digits, all in lower case'
[[ -n $bucket ]] || die '-b BUCKET is missing: a bucket for the templates'
for program in aws jq sha256sum; do
    command -v "$program" >/dev/null || die "$program is not installed"
done
: "${regions:=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}"
[[ -n $regions ]] || die '--region is missing'
IFS=, read -ra regions <<<"$regions"

identity=$(aws sts get-caller-identity --region "${regions[0]}" --output json) || die 'the AWS CLI has no valid credentials'
account=$(jq -r .Account <<<"$identity")
partition=$(jq -r '.Arn | split(":")[1]' <<<"$identity")
suffix=amazonaws.com
[[ $partition != aws-cn ]] || suffix=amazonaws.com.cn
stack=logferry-$environment
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Puts the templates below a key that changes with their content, so CloudFormation reads changed templates anew.
upload() {
    local location version
    location=$(aws s3api get-bucket-location --bucket "$bucket" --region "${regions[0]}" --output text) ||
        die "bucket $bucket cannot be read"
    case $location in None) location=us-east-1 ;; EU) location=eu-west-1 ;; esac
    version=$(cat ./*.yaml | sha256sum | cut -c 1-16)
    # The AWS CLI sends the files in parallel.
    aws s3 cp . "s3://$bucket/$prefix/$version/" --recursive --exclude '*' --include '*.yaml' --only-show-errors --region "$location" ||
        die "the templates cannot be put into bucket $bucket"
    case $style in
        path) url=https://s3.$location.$suffix/$bucket/$prefix/$version ;;
        *) url=https://$bucket.s3.$location.$suffix/$prefix/$version ;;
    esac
    printf 'templates are at s3://%s/%s/%s\n' "$bucket" "$prefix" "$version"
}

# status REGION: the stack's status, or nothing if there is no stack.
status() {
    aws cloudformation describe-stacks --stack-name "$stack" --region "$1" --query 'Stacks[0].StackStatus' --output text 2>"$work/error" ||
        grep -q 'does not exist' "$work/error" || die "$1: $(<"$work/error")"
}

# exists REGION: whether there is a stack, not only the empty one that CloudFormation makes for the change set of a new one.
exists() {
    local now
    now=$(status "$1")
    [[ $now != '' && $now != REVIEW_IN_PROGRESS ]]
}

# parameter REGION NAME: the present value of a parameter of the stack.
parameter() {
    aws cloudformation describe-stacks --stack-name "$stack" --region "$1" --output json |
        jq -r --arg name "$2" '.Stacks[0].Parameters[]? | select(.ParameterKey == $name) | .ParameterValue // ""'
}

# Refuses another first Region. The old one would delete the central role. A new role of the same name would not help the
# customers: IAM keeps the old role's unique id in their trust policies.
same_first_region() {
    local region
    ((${#regions[@]} > 1)) || return 0
    for region in "${regions[@]:1}"; do
        [[ $region != "${regions[0]}" ]] || die "--regions names $region twice"
        if exists "$region" && [[ -z $(parameter "$region" CentralRoleArn) ]]; then
            die "$region has the central role, so --regions must begin with $region"
        fi
    done
    if exists "${regions[0]}" && [[ -n $(parameter "${regions[0]}" CentralRoleArn) ]]; then
        die "${regions[0]} uses the central role of another Region, so --regions must begin with that one"
    fi
}

# further_roles ROLE,...: these roles and those that the central role trusts already, separated by commas. Leaves out roles that
# do not exist any more, because IAM refuses a trust policy with their names.
further_roles() {
    local role roles kept=()
    IFS=, read -ra roles <<<"$(parameter "${regions[0]}" FurtherWorkerRoles),$1"
    while read -r role; do
        if aws iam get-role --role-name "${role##*/}" --region "${regions[0]}" >/dev/null 2>"$work/error"; then
            kept+=("$role")
        else
            grep -q NoSuchEntity "$work/error" || die "$(<"$work/error")"
        fi
    done < <(printf '%s\n' "${roles[@]}" | sort -u | sed '/^$/d')
    (IFS=, && printf '%s' "${kept[*]}")
}

# output REGION NAME: a value that the stack gives out.
output() {
    aws cloudformation describe-stacks --stack-name "$stack" --region "$1" --output text \
        --query "Stacks[0].Outputs[?OutputKey=='$2'].OutputValue | [0]"
}

# changes REGION CHANGE_SET INDENT: prints a change set and those of its nested stacks.
changes() {
    local region=$1 indent=$3 set action name type nested
    set=$(aws cloudformation describe-change-set --change-set-name "$2" --region "$region" --output json)
    while IFS=$'\t' read -r action name type nested; do
        printf '%s: %s%-8s %-24s %s\n' "$region" "$indent" "$action" "$name" "$type"
        [[ $nested == - ]] || changes "$region" "$nested" "$indent  "
    done < <(jq -r '.Changes[].ResourceChange | [(if .Replacement == "True" then "Replace" else .Action end),
        .LogicalResourceId, .ResourceType, .ChangeSetId // "-"] | @tsv' <<<"$set")
}

# failures REGION STACK: prints why resources failed since the start, those of nested stacks too.
failures() {
    local region=$1 name type id reason
    while IFS=$'\t' read -r name type id reason; do
        if [[ $type == AWS::CloudFormation::Stack && $id == arn:* && $id != "$2" ]]; then
            failures "$region" "$id"
        else
            printf '%s: FAILED %s %s: %s\n' "$region" "$name" "$type" "$reason" >&2
        fi
    done < <(aws cloudformation describe-stack-events --stack-name "$2" --region "$region" --output json | jq -r --arg since "$started" '
        .StackEvents[] | select(.Timestamp >= $since and (.ResourceStatus | endswith("FAILED")) and (.ResourceStatusReason // "" | contains("cancelled") | not))
        | [.LogicalResourceId, .ResourceType, .PhysicalResourceId // "-", .ResourceStatusReason // "-"] | map(if . == "" then "-" else . end) | @tsv')
}

# follow REGION: prints the stack's events until it has stopped changing.
follow() {
    local region=$1 now seen=$work/seen
    while now=$(status "$region"); do
        aws cloudformation describe-stack-events --stack-name "$stack" --region "$region" --output json 2>/dev/null | jq -r --arg since "$started" '
            .StackEvents | reverse[] | select(.Timestamp >= $since) | [.EventId, .ResourceStatus, .LogicalResourceId] | @tsv' |
            while IFS=$'\t' read -r event state name; do
                grep -qxF "$event" "$seen" 2>/dev/null && continue
                printf '%s\n' "$event" >>"$seen"
                printf '%s: %-28s %s\n' "$region" "$state" "$name"
            done
        case $now in *_IN_PROGRESS) sleep 3 ;; *) break ;; esac
    done
    case $now in CREATE_COMPLETE | UPDATE_COMPLETE) ;; *) failures "$region" "$stack" && die "$region: stack $stack is $now" ;; esac
}

# deploy REGION [NAME=VALUE...]: makes the change set, and carries it out unless this is a dry run.
deploy() {
    local region=$1 now type=UPDATE known previous parameters name state reason set
    shift
    now=$(status "$region")
    case $now in
        '' | REVIEW_IN_PROGRESS) type=CREATE ;;
        ROLLBACK_COMPLETE | ROLLBACK_FAILED | DELETE_FAILED)
            die "$region: stack $stack is $now; see its events, then: aws cloudformation delete-stack --stack-name $stack --region $region" ;;
        *_IN_PROGRESS) die "$region: stack $stack is $now; wait for its end" ;;
    esac
    local -A values=([TemplatesUrl]=$url [Environment]=$environment)
    values[NameSuffix]=$(printf '%s' "$partition/$account/$region/$environment" | sha256sum | cut -c 1-8)
    for name in "${!given[@]}"; do values[$name]=${given[$name]}; done
    [[ -z $image ]] || values[ImageUri]=${image//\{region\}/$region}
    for name in "$@"; do values[${name%%=*}]=${name#*=}; done

    known=$(aws cloudformation validate-template --template-body "file://$folder/main.yaml" --region "$region" \
        --query 'Parameters[].ParameterKey' --output json) || die 'main.yaml is not valid'
    for name in "${!values[@]}"; do
        jq -e --arg name "$name" 'index($name) != null' <<<"$known" >/dev/null || die "main.yaml has no parameter $name"
    done
    previous='[]'
    [[ $type == CREATE ]] || previous=$(aws cloudformation describe-stacks --stack-name "$stack" --region "$region" \
        --query 'Stacks[0].Parameters[].ParameterKey' --output json)
    parameters=$(
        for name in "${!values[@]}"; do jq -n --arg k "$name" --arg v "${values[$name]}" '{ParameterKey: $k, ParameterValue: $v}'; done |
            jq -s --argjson known "$known" --argjson previous "$previous" '. as $given |
                $given + [$previous[] | select(. as $name | ($known | index($name)) and all($given[]; .ParameterKey != $name))
                    | {ParameterKey: ., UsePreviousValue: true}]'
    )
    started=$(date -u +%Y-%m-%dT%H:%M:%S)
    set=$(aws cloudformation create-change-set --stack-name "$stack" --region "$region" --change-set-name "deploy-$(date -u +%Y%m%d%H%M%S)-$$" \
        --change-set-type "$type" --template-url "$url/main.yaml" --parameters "$parameters" --include-nested-stacks \
        --capabilities CAPABILITY_NAMED_IAM --tags "Key=application,Value=logferry" --query Id --output text) ||
        die "$region: CloudFormation refuses the change set"
    while read -r state reason < <(aws cloudformation describe-change-set --change-set-name "$set" --region "$region" --output text \
        --query '[Status, StatusReason]'); do
        case $state in
            CREATE_COMPLETE) break ;;
            FAILED)
                aws cloudformation delete-change-set --change-set-name "$set" --region "$region"
                [[ $reason =~ "didn't contain changes"|'No updates are to be performed' ]] || die "$region: $reason"
                printf '%s: stack %s needs no change\n' "$region" "$stack"
                return
                ;;
            *) sleep 1 ;;
        esac
    done
    changes "$region" "$set" ''
    if [[ $mode == dry-run ]]; then
        aws cloudformation delete-change-set --change-set-name "$set" --region "$region"
        # CloudFormation makes an empty stack for the change set of a new one.
        if [[ $type == CREATE ]]; then
            aws cloudformation delete-stack --stack-name "$stack" --region "$region"
            aws cloudformation wait stack-delete-complete --stack-name "$stack" --region "$region"
        fi
        printf '%s: dry run: nothing was changed\n' "$region"
        return
    fi
    aws cloudformation execute-change-set --change-set-name "$set" --region "$region"
    follow "$region"
    aws cloudformation update-termination-protection --enable-termination-protection --stack-name "$stack" --region "$region" >/dev/null
    printf '%s: stack %s is deployed\n' "$region" "$stack"
}

cd "$folder"
same_first_region
upload
deploy "${regions[0]}"
if ((${#regions[@]} > 1)); then
    if [[ $mode == dry-run && -z $(status "${regions[0]}") ]]; then
        printf 'dry run: the other Regions need the central role, which does not exist yet\n'
        exit
    fi
    central=$(output "${regions[0]}" CentralRoleArn)
    roles=()
    for region in "${regions[@]:1}"; do
        deploy "$region" "CentralRoleArn=$central"
        [[ $mode == dry-run ]] || roles+=("$(output "$region" AssumingRoles)")
    done
    # IAM takes a role's name in a trust policy only when the role exists.
    if [[ $mode != dry-run ]]; then
        further=$(further_roles "$(IFS=, && printf '%s' "${roles[*]}")")
        deploy "${regions[0]}" "FurtherWorkerRoles=$further"
    fi
fi
